"""What every section of params.yaml shares: strict types, and names that may be keys."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

# DVC leaves keys of these names, at any depth, out of the key of its run-cache (treeverse/dvc#10296): with one of them
# it would answer with the results of another value.
UNSEEN_BY_DVC = ("size", "nfiles")


def seen_by_dvc(name: str) -> str:
    """The name itself.

    Raises:
        ValueError: for a name that DVC's run-cache does not see.
    """
    if name in UNSEEN_BY_DVC:
        raise PydanticCustomError(
            "unseen_by_dvc", "expected another name, as DVC's run-cache leaves out keys called so"
        )
    return name


# Names become file names and labels.
Slug = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40), AfterValidator(seen_by_dvc)]


class Section(BaseModel):
    """What all sections share: strict types, no unknown keys, immutable, finite numbers only."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
