"""The verbs, nothing else. Each says what it does on stderr and prints its result on stdout.

Exit codes: 0 done or verified, 1 refuted or regressed, 2 wrong usage or configuration, 3 inconclusive,
4 invalid or infrastructure, 130 interrupted (resumable). `measure` passes on its command's own.
"""

from __future__ import annotations

import json
import signal
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from harness import __version__
from harness.errors import UserError
from harness.streams import prepare_streams, visible, visible_json

app = typer.Typer(
    name="harness",
    help="Does this way of training really save energy, and at what cost in quality?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

INFRASTRUCTURE = 4
INTERRUPTED = 130

SuitePath = Annotated[Path, typer.Argument(help="Suite file (YAML).")]
ResultsPath = Annotated[Path, typer.Argument(help="Folder of a result set, e.g. results/scaling.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override a value of the suite file.")
]
Only = Annotated[
    str | None, typer.Option(metavar="GLOB", help="Only runs whose id, arm or size matches; baselines stay.")
]
Shard = Annotated[str | None, typer.Option(metavar="I/N", help="Only the I-th of N parts of the blocks, e.g. 0/4.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
ResultsOption = Annotated[Path | None, typer.Option("--results", help="Result set; results/<suite name> by default.")]
Budget = Annotated[str | None, typer.Option(help="Stop before a run that would end later than this, e.g. 9m.")]
MeterName = Annotated[
    str | None,
    typer.Option(
        help="auto, nvml, rapl, modelled, external:FILE or external:URL, simulated:SCENARIO or replay:FILE; "
        "the suite's by default."
    ),
]


class Format(StrEnum):
    """What a report is written as."""

    HTML = "html"
    MD = "md"
    JSON = "json"

    @classmethod
    def of(cls, path: Path | None) -> Format:
        """By the ending of a file; HTML where it says nothing."""
        ending = path.suffix.lower().removeprefix(".") if path is not None else ""
        return cls(ending) if ending in list(cls) else cls.HTML


class Listing(StrEnum):
    """What `ls` lists."""

    WORKLOADS = "workloads"
    METHODS = "methods"
    METERS = "meters"
    SCENARIOS = "scenarios"
    REGIONS = "regions"
    PRICES = "prices"
    CLAIMS = "claims"
    SIZES = "sizes"


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:  # no_args_is_help answers first
        raise typer.Exit(2)


@app.command()
def run(
    suite: SuitePath,
    results: ResultsOption = None,
    output: Annotated[Path | None, typer.Option("-o", help="The page; reports/<suite name>.html by default.")] = None,
    budget: Budget = None,
    only: Only = None,
    shard: Shard = None,
    meter: MeterName = None,
    overrides: Overrides = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew; an old set is moved aside.")] = False,
    mix_revisions: Annotated[
        bool, typer.Option("--mix-revisions", help="Go on with a set that another code revision or machine began.")
    ] = False,
    new_blocks: Annotated[
        bool,
        typer.Option("--new-blocks", help="Go on with a set of another machine or card: blocks not begun there."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run what is left of a suite, then judge it and write the page."""
    from harness import app as steps

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler that stops us is a ^C
    outcome = steps.run(
        suite,
        results=results,
        output=output,
        budget=budget,
        only=only,
        shard=shard,
        meter=meter,
        overrides=overrides or [],
        fresh=fresh,
        mix_revisions=mix_revisions,
        new_blocks=new_blocks,
    )
    _print(outcome.document, outcome.text, as_json=as_json)
    raise typer.Exit(INTERRUPTED if outcome.interrupted else INFRASTRUCTURE if outcome.broken else 0)


@app.command()
def plan(
    suite: SuitePath,
    results: ResultsOption = None,
    budget: Budget = None,
    only: Only = None,
    shard: Shard = None,
    overrides: Overrides = None,
    card: Annotated[
        str | None, typer.Option(help="Plan for a card that is not here: H100, H200, A100 ...; all of it assumed.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What would run, what is skipped and why, predicted time, energy and cost."""
    from harness import app as steps
    from harness.suite import show

    _, planned = steps.make_plan(suite, overrides or [], only, shard, steps.budget_s(budget), results, card)
    if as_json:
        _print_json(planned.model_dump(mode="json"))
    else:
        show.print_plan(planned)


@app.command()
def validate(suites: Annotated[list[Path], typer.Argument(help="Suite files.")], as_json: AsJson = False) -> None:
    """Check suite files; all mistakes at once."""
    from harness import app as steps

    problems = steps.validate(suites)
    if as_json:
        _print_json({str(path): texts for path, texts in problems.items()})
    else:
        for path, texts in problems.items():
            print(visible("\n".join(texts) if texts else f"{path}: ok"))
    raise typer.Exit(2 if any(problems.values()) else 0)


@app.command()
def schema(as_json: AsJson = True) -> None:
    """The JSON Schema of a suite file, for editors; JSON with or without --json."""
    from harness.suite.schema import suite_schema

    _print_json(suite_schema())


@app.command()
def report(
    results: ResultsPath,
    output: Annotated[Path | None, typer.Option("-o", help="File; stdout by default for md and json.")] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="What to write; by the file's ending if left out, else html.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the page of a result set."""
    from harness import app as steps

    form = form or Format.of(output)
    path = output
    if path is None and form is Format.HTML and not as_json:
        path = Path("reports") / f"{results.resolve().name}.html"
    if path is not None:
        steps.write_text(path, steps.render(results, form.value))
    if as_json or path is None:
        safe = visible_json if as_json or form is Format.JSON else visible
        sys.stdout.write(safe(steps.render(results, Format.JSON.value if as_json else form.value)))
    else:
        print(path)


@app.command()
def verify(results: ResultsPath, as_json: AsJson = False) -> None:
    """Print the verdicts; the exit code is the answer."""
    from harness import app as steps

    judgement, text, code = steps.verify(results)
    _print(judgement.model_dump(mode="json"), text, as_json=as_json)
    raise typer.Exit(code)


@app.command()
def compare(base: ResultsPath, new: ResultsPath, as_json: AsJson = False) -> None:
    """Regression gate: has the saving ratio of NEW fallen behind BASE?"""
    from harness import app as steps

    document, text, code = steps.compare(base, new)
    _print(document, text, as_json=as_json)
    raise typer.Exit(code)


@app.command()
def audit(
    results: ResultsPath,
    page: Annotated[
        Path | None, typer.Option(help="Page to compare byte by byte; reports/<set>.html if it is there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Re-derive every joule, every verdict and the page from the raw files; name what was changed."""
    from harness import app as steps

    report = steps.audit(results, page)
    _print(report.document, report.text, as_json=as_json)
    raise typer.Exit(INFRASTRUCTURE if report.findings else 0)


@app.command()
def doctor(
    meter: Annotated[
        str, typer.Option(help="auto, or a meter to ask about, e.g. nvml or simulated:h100 (what it would look like).")
    ] = "auto",
    square_wave: Annotated[
        bool,
        typer.Option("--square-wave", help="Experiment: does the card's counter share the sensor's window? 2 minutes."),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", help="With --square-wave: the document here, raw samples beside it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What can be measured on this machine, how well, and what to change to measure more."""
    from harness import app as steps

    if output is not None and not square_wave:
        raise UserError("-o goes with --square-wave")
    if square_wave:
        experiment, text = steps.square_wave(meter, output)
        _print(experiment.model_dump(mode="json"), text, as_json=as_json)
        return
    found, text = steps.doctor(meter)
    if as_json:
        _print_json(found.model_dump(mode="json"))
    else:
        print(text)  # made visible already, and has colours of its own on a terminal
    raise typer.Exit(0 if found.measures else INFRASTRUCTURE)


@app.command(context_settings={"allow_interspersed_args": False})
def measure(
    command: Annotated[list[str] | None, typer.Argument(metavar="[--] CMD [ARGS]...", help="Command A.")] = None,
    vs: Annotated[
        str | None, typer.Option("--vs", metavar="'CMD B'", help="Run B against A in pairs; what B saves is reported.")
    ] = None,
    shell: Annotated[bool, typer.Option("--shell", help="Run by /bin/sh -c.")] = False,
    meter: Annotated[
        list[str] | None, typer.Option(help="As of run; can be repeated. By default the card's and the CPU's.")
    ] = None,
    device: Annotated[list[str] | None, typer.Option(metavar="UUID", help="Card to be metered; repeatable.")] = None,
    sample_hz: Annotated[float, typer.Option(help="Samples a second.")] = 20.0,
    calibrate: Annotated[bool, typer.Option(help="Observe the meter's refresh for 2 to 3 s before the start.")] = True,
    idle: Annotated[
        str | None, typer.Option(metavar="5s", help="Idle baseline before the command, or before each pair.")
    ] = None,
    step_time: Annotated[
        str | None, typer.Option(metavar="0.1s", help="Period of the command's repeated work: checks aliasing.")
    ] = None,
    second_opinion: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="zeus or codecarbon, on the same window; repeatable.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option("--results", "--samples", metavar="DIR", help="Keep samples and report; pairs go on from it."),
    ] = None,
    replay: Annotated[
        Path | None, typer.Option("--replay", metavar="DIR", help="Derive a kept measurement again from its samples.")
    ] = None,
    pairs: Annotated[int | None, typer.Option(help="Number of pairs; by --half-width if left out.")] = None,
    half_width: Annotated[float, typer.Option(help="Wanted half-width of the 95 % interval, in points.")] = 2.0,
    scatter: Annotated[float, typer.Option(help="Scatter of one run that is assumed for it, in percent.")] = 3.0,
    warmups: Annotated[int, typer.Option(help="Runs of each command before the pairs, in no pair.")] = 1,
    cooldown: Annotated[
        float | None, typer.Option(metavar="C", help="Wait before a run until within so many degrees of the first.")
    ] = None,
    allow_failures: Annotated[
        bool, typer.Option("--allow-failures", help="Go on when a command fails; its pair is left out by name.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Who begins is drawn by it; drawn itself if left out.")] = None,
    label: Annotated[str, typer.Option(help="A title.")] = "",
    output: Annotated[Path | None, typer.Option("-o", metavar="FILE", help="Write the JSON document here too.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 4 if the command went well but a figure can't be trusted.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout; the command's own goes to stderr.")
    ] = False,
) -> None:
    """Meter any command with its process tree, or two against each other; the exit code is the command's."""
    from harness.measure import verb

    if replay is not None:
        if command or vs:
            raise UserError("--replay DIR takes no command: it runs nothing")
        raise typer.Exit(verb.answer_again(replay, output, as_json=as_json, strict=strict))
    options = verb.Options(
        command=command or (),
        versus=vs,
        shell=shell,
        meters=meter or (),
        devices=device or (),
        sample_hz=sample_hz,
        calibrate=calibrate,
        idle=idle,
        step_time=step_time,
        opinions=second_opinion or (),
        results=results,
        label=label,
        as_json=as_json,
        strict=strict,
        pairs=pairs,
        half_width=half_width,
        scatter=scatter,
        warmups=warmups,
        cooldown_c=cooldown,
        allow_failures=allow_failures,
        seed=seed,
    )
    raise typer.Exit(verb.answer(options, output))


@app.command("ls")
def ls(what: Annotated[Listing, typer.Argument(help="What to list.")], as_json: AsJson = False) -> None:
    """List what there is to choose from."""
    from harness import app as steps

    rows = steps.listing(what.value)
    _print(rows, steps.table(rows), as_json=as_json)


def _print(document: Any, text: str, *, as_json: bool) -> None:
    if as_json:
        _print_json(document)
    else:
        print(visible(text))


def _print_json(document: Any) -> None:
    print(visible_json(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)))


def main() -> NoReturn:
    """Run the command line; a mistake of the user's is a message, not a traceback."""
    prepare_streams()
    try:
        code = app(standalone_mode=False, prog_name="harness")
    except UserError as error:
        print(visible(f"error: {error}"), file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        usage_exit_code = getattr(error, "exit_code", None)  # typer's own errors, whose class it does not export
        if usage_exit_code is not None and hasattr(error, "show"):
            error.show(sys.stderr)
            sys.exit(usage_exit_code)
        # Never Python's own 1: that would read "refuted".
        if isinstance(error, OSError):
            print(visible(f"error: {error}"), file=sys.stderr)
        else:
            traceback.print_exc()
            print("this is a fault of the harness; the lines above say where", file=sys.stderr)
        sys.exit(INFRASTRUCTURE)
    sys.exit(code if isinstance(code, int) else 0)
