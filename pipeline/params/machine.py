"""Sections on the machine: how numbers are computed, and where the jobs run."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.params.bounds import MOST_PROCESSES, EvalBatchSize, Gibibytes, Processes, Readers, Threads
from pipeline.params.sections import Section


class Numerics(Section):
    """How numbers are computed: all that changes the last bits of a result.

    `device`: auto is a CUDA or ROCm GPU where there is one, and the CPU elsewhere; Apple's mps has to be asked for.
    `precision`: of forward and backward passes in training; weights, scatter matrices and everything that is
    measured stay in float32 or float64. `compile`: torch.compile in training. `threads`: of torch in each process.
    `devices`: processes that train one net together on each of `num_nodes` machines, one for each GPU; with
    `strategy` ddp each holds the whole net, with fsdp a share of its weights, gradients and momentum.
    """

    device: Literal["auto", "cpu", "cuda", "mps"]
    precision: Literal["float32", "bfloat16", "float16"]
    compile: bool
    threads: Threads
    eval_batch_size: EvalBatchSize
    devices: Processes
    num_nodes: Processes
    strategy: Literal["ddp", "fsdp"]

    @model_validator(mode="after")
    def _mps_is_alone(self) -> Self:
        if self.device == "mps" and self.n_processes > 1:
            raise ValueError(
                f"device: expected auto, cpu or cuda for {self.n_processes} processes, which mps has no link for "
                "(got 'mps')"
            )
        return self

    @property
    def n_processes(self) -> int:
        """How many processes train one net together."""
        return self.devices * self.num_nodes


def _is_number_of_jobs(value: Any) -> Any:
    """One error for both kinds of value, of which pydantic would tell separately."""
    if value != "auto" and (
        not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_PROCESSES
    ):
        raise PydanticCustomError("jobs", f"expected 'auto' or an integer from 1 to {MOST_PROCESSES}")
    return value


class Latency(Section):
    """How long models take: `runs` of each at each of `batches` (images at a time), on so many threads of the CPU."""

    batches: Annotated[list[EvalBatchSize], Field(min_length=1)]
    runs: Annotated[int, Field(ge=50, le=100_000)]
    threads: Threads


class Runtime(Section):
    """Where the jobs of a stage run; no result depends on it.

    `jobs`: how many at a time; auto is one for each GPU, or for each `numerics.threads` cores. `backend`: loky is
    processes on this machine, dask the workers of the cluster at `address`. `workers`: processes of each job that read
    image files ahead (`data.store: index`); 0 reads them in between. `store_gib`: how much of finished jobs is kept.
    """

    jobs: Annotated[Processes | Literal["auto"], BeforeValidator(_is_number_of_jobs)]
    backend: Literal["loky", "dask"]
    address: Annotated[str, Field(min_length=1)] | None
    workers: Readers
    store_gib: Gibibytes

    @model_validator(mode="after")
    def _dask_has_an_address(self) -> Self:
        if self.backend == "dask" and self.address is None:
            raise ValueError(
                "address: expected that of a Dask scheduler, such as tcp://127.0.0.1:8786 (got null)"
            )
        return self
