"""Write the reports, from tables only."""

from pipeline.report import write_report
from pipeline.report.results import load_results
from pipeline.workflow.stage import StageRun, run_stage


def report(run: StageRun) -> str:
    """From every seed's tables to `reports/<name>`."""
    params = run.params
    write_report(load_results(params, run.artefact()), run.out)
    return f"read reports/{params.name}/pruning.md and robustness.md"


if __name__ == "__main__":
    run_stage(report, out="reports/{name}")
