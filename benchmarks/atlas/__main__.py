"""
Plant faults in datasets and record what each tool finds of them: recall, false alarms, ranking, place, time.

    python -m benchmarks.atlas --set g1_bottle=PATH --set cr5_usb=PATH --seeds 2     # rerun to resume
    python -m benchmarks.atlas --set g1_bottle=PATH --tools hf-ptr --faults 'late 6,noise 0.1' --out build/atlas.jsonl
    python -m benchmarks.atlas.table

One cell a line in `benchmarks/results/atlas.jsonl`. A cell that was recorded with the present code is not repeated.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import measurement
from benchmarks.atlas.cells import Cell, Recorded, cells_of
from benchmarks.atlas.generated import generated_set
from benchmarks.atlas.kinds import CONTROLS, FAULTS
from benchmarks.atlas.metrics import Judgement, figures
from benchmarks.atlas.options import add_options, named, parsed
from benchmarks.atlas.pinned import require_pinned
from benchmarks.atlas.planted import STATE, UNTOUCHED, plant, read_set
from benchmarks.atlas.tools import GROUPS, TOOLS, judged, tools_for, version_of
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.errors import InputError
from hf_ptr.utils.progress import progress_bar

EVERYTHING = (UNTOUCHED, *CONTROLS, *FAULTS)
# What the small form plants, and the generated sets that it leaves untouched.
SMALL_FAULTS = (
    UNTOUCHED,
    *("tremor 0.05", "half rate", "slower 1.5", "minority strategy"),
    *("swapped", "noise 0.1", "late 6", "flipped axis", "exchanged"),
    *("action spikes 1", "doubled", "duplicate"),
)
SOUND_SETS = 3


def run_cell(
    dataset: str, table: EpisodeTable, cell: Cell, tools: Sequence[str], recorded: Recorded, power: bool = True
) -> None:
    """Judge a planted set with the tools that have not, and record each; `power`: with the promised power."""
    planted = plant(table, cell.fault, cell.part, cell.seed, cell.carriers)
    if planted is None:
        return
    versions = {tool: f"{planted.digest} {version_of(tool)}" for tool in tools_for(cell, tools)}
    missing = [tool for tool, version in versions.items() if recorded.version(dataset, cell, tool) != version]
    for tool, (judgement, failure, seconds) in judged(planted, missing, power).items():
        found = figures(planted, judgement or Judgement(None), harmless=cell.fault in CONTROLS)
        recorded.add(
            {
                "dataset": dataset,
                "fault": cell.fault,
                "part": cell.part,
                "seed": cell.seed,
                "tool": tool,
                "episodes": table.num_episodes,
                "carriers": cell.carriers,
                **{name: None if value is None else round(value, 4) for name, value in found.items()},
                "power_promised": judgement.power if judgement else None,
                "seconds": seconds,
                "version": versions[tool],
                **({"failure": failure} if failure else {}),
            }
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = measurement.command_parser("atlas", (__doc__ or "").strip())
    add_options(parser)
    parser.add_argument("--tools", help=f"comma-separated, or of {', '.join(GROUPS)}; default all")
    parser.add_argument(
        "--usual", action="store_true", help="faults in a fifth of the episodes only, not in two episodes"
    )
    options = parsed(parser, arguments)
    tools = named("--tools", options.tools or ("hf-ptr,baselines" if options.small else None), TOOLS, GROUPS)
    faults = named("--faults", options.faults, SMALL_FAULTS if options.small else EVERYTHING)
    sets, states = options.set, options.state
    if not sets and not options.small:
        raise InputError("no dataset given; name one with --set NAME=PATH")
    tables = {name: read_set(path, states.get(name, STATE), options.episodes) for name, path in sets.items()}
    recorded = Recorded(options.out or (measurement.SMALL if options.small else measurement.RESULTS) / "atlas.jsonl")
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    work = [
        (name, table, cell)
        for name, table in tables.items()
        for cell in cells_of(faults, seeds, table.num_episodes, rare=not options.usual)
    ]
    if options.small:
        recorded = Recorded(recorded.file, fresh=True)
        generated = [generated_set(seed=seed) for seed in range(SOUND_SETS)]
        small = cells_of(faults, [1], generated[0].num_episodes, rare=False)
        work += [("generated", generated[0], cell) for cell in small]
        sound = cells_of([UNTOUCHED], [1], generated[0].num_episodes, rare=False)
        work += [(f"generated {n}", table, cell) for n, table in enumerate(generated) if n for cell in sound]
    with progress_bar() as bar:
        task = bar.add_task("planted sets", total=len(work))
        for name, table, cell in work:
            run_cell(name, table, cell, tools, recorded, power=not options.small)
            bar.advance(task)
    recorded.compact()
    print(f"{len(recorded.lines)} cells in {recorded.file}")
    if options.small and not (sets or options.faults or options.tools):
        require_pinned(recorded.lines.values())


if __name__ == "__main__":
    measurement.run("benchmarks.atlas", main)
