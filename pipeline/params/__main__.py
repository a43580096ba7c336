"""`python -m pipeline.params [FILE]`: checks a params file, or switches to a preset."""

from pipeline.params.file import main

if __name__ == "__main__":
    main()
