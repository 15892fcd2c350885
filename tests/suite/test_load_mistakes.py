"""Bad suite files, each with the exact text that a user gets."""

from __future__ import annotations

import pytest

from harness.suite.load import SuiteError, loads

GOOD = """\
name: demo
workload: toy
arms:
  again: dense
  sat: {share: 0.25}
  short: {method: dense-short, match: sat}
experiments:
  - protocol: train
    sizes: [0.1M, 0.2M]
    seeds: 3
    arms: [dense, again, sat, short]
    recipe: {steps: 50}
budget: 9m
"""

# What is taken out of the good file, what is put in its place, and the lines that come after "suite.yaml:".
MISTAKES: list[tuple[str, str, list[str]]] = [
    (
        "workload: toy",
        "workload: tot",
        [
            "2: workload: unknown workload 'tot', did you mean 'toy'? known: toy",
        ],
    ),
    (
        "workload: toy\n",
        "",
        [
            " workload: is missing",
        ],
    ),
    (
        "workload: toy",
        "workload: 3",
        [
            '2: workload: must be text, not the number 3; put it in quotes: "3"',
        ],
    ),
    (
        "workload: toy",
        "workload:",
        [
            "2: workload: must be text, not empty",
        ],
    ),
    (
        "name: demo",
        "name: my demo!",
        [
            "1: name: 'my demo!' can't be a name: letters, digits, '.', '_' and '-' only",
        ],
    ),
    (
        "name: demo",
        "name: 2026-10-01",
        [
            '1: name: YAML reads 2026-10-01 as a date; put it in quotes: "2026-10-01"',
        ],
    ),
    (
        "name: demo",
        "name: no",
        [
            '1: name: must be text, not no (YAML reads it as false); put it in quotes: "no"',
        ],
    ),
    (
        "budget: 9m",
        "budgte: 9m",
        [
            "13: budgte: unknown key 'budgte', did you mean 'budget'? known: name, title, question, "
            "workload, workload_options, recipe, baseline, arms, experiments, claims, meter, device, "
            "footprint, budget, timeout, idle, cooldown_c, sample_hz",
        ],
    ),
    (
        "budget: 9m",
        "budget: 9:00",
        [
            "13: budget: YAML reads 9:00 as a number to base 60; write 90s, 1m30s or 1h30m for a duration",
        ],
    ),
    (
        "budget: 9m",
        "budget: 9 minutes",
        [
            "13: budget: '9 minutes' is not a duration; write it like 90s, 9m or 1h30m",
        ],
    ),
    (
        "budget: 9m",
        "budget: -5",
        [
            "13: budget: a duration must be above 0 and at most 30 years",
        ],
    ),
    (
        "budget: 9m",
        "budget: yes",
        [
            "13: budget: must be a duration such as 90s, 9m or 1h30m",
        ],
    ),
    (
        "budget: 9m",
        "timeout: 0s",
        [
            "13: timeout: a duration must be above 0 and at most 30 years",
        ],
    ),
    (
        "budget: 9m",
        "on: 9m",
        [
            '13: on: YAML reads this key as bool; put it in quotes: "on"',
        ],
    ),
    (
        "budget: 9m",
        "10: 9m",
        [
            '13: 10: YAML reads this key as int; put it in quotes: "10"',
        ],
    ),
    (
        "budget: 9m",
        "[a]: 9m",
        [
            "13: a key must be plain text",
        ],
    ),
    (
        "budget: 9m",
        "<<: 9m",
        [
            "13: <<: merge keys are not allowed in a suite; write the keys out",
        ],
    ),
    (
        "budget: 9m",
        "budget: 9m\nbudget: 8m",
        [
            "14: budget: appears twice, first in line 13",
        ],
    ),
    (
        "budget: 9m",
        "budget: &x 9m\ntimeout: *x",
        [
            "14: alias '*x' is not allowed in a suite; write the value out",
        ],
    ),
    (
        "budget: 9m",
        "budget: !!python/object:os.system 9m",
        [
            "13: budget: tag '!!python/object:os.system' is not used in suite files; take it away",
        ],
    ),
    (
        "budget: 9m",
        "sample_hz: 1e1",
        [
            "13: sample_hz: must be a number, not '1e1'; YAML takes 1e1 for text, write 10",
        ],
    ),
    (
        "budget: 9m",
        "sample_hz: 1000",
        [
            "13: sample_hz: must be at most 100, not 1000",
        ],
    ),
    (
        "budget: 9m",
        "sample_hz: .inf",
        [
            "13: sample_hz: .inf is not a finite number",
        ],
    ),
    (
        "budget: 9m",
        "cooldown_c: '5'",
        [
            "13: cooldown_c: must be a number, not '5'; take the quotes away",
        ],
    ),
    (
        "budget: 9m",
        "meter: nvlm",
        [
            "13: meter: unknown meter 'nvlm', did you mean 'nvml'? known: auto, modelled, nvml, rapl, replay, "
            "simulated",
        ],
    ),
    (
        "budget: 9m",
        "meter: replay",
        [
            "13: meter: meter 'replay' needs an argument; write replay:FILE",
        ],
    ),
    (
        "budget: 9m",
        "meter: simulated",
        [
            "13: meter: meter 'simulated' needs an argument; write simulated:SCENARIO",
        ],
    ),
    (
        "budget: 9m",
        "meter: replay:nowhere",
        [
            "13: meter: meter 'replay': there is no file 'nowhere'",
        ],
    ),
    (
        "budget: 9m",
        "meter: rapl:3",
        [
            "13: meter: meter 'rapl' takes no argument; write just rapl",
        ],
    ),
    (
        "budget: 9m",
        "device: gpu",
        [
            "13: device: unknown value 'gpu', did you mean 'cpu'? known: auto, cpu, cuda",
        ],
    ),
    (
        "budget: 9m",
        "claims: nowhere.yaml",
        [
            "13: claims: claims file nowhere.yaml: can't be read: No such file or directory",
        ],
    ),
    (
        "budget: 9m",
        "baseline: dens",
        [
            "13: baseline: unknown arm 'dens', did you mean 'dense'? known: again, sat, short, dense, dense-short",
        ],
    ),
    (
        "budget: 9m",
        "baseline: dense-short",
        [
            "11: experiments[0].arms: the baseline 'dense-short' must take part: pairs are made with it",
            "13: baseline: arm 'dense-short' needs an entry under arms that says which arm it matches",
        ],
    ),
    (
        "budget: 9m",
        "footprint: {pue: 0.9, pue_source: x}",
        [
            "13: footprint.pue: must be at least 1, not 0.9",
        ],
    ),
    (
        "budget: 9m",
        "footprint: {pue: 1.2}",
        [
            "13: footprint.pue: a PUE other than 1 needs its source: 'pue_source: ...'",
        ],
    ),
    (
        "budget: 9m",
        "footprint: {region: 33, carbon: 4}",
        [
            '13: footprint.region: must be text, not the number 33; put it in quotes: "33"',
            "13: footprint.carbon: unknown key 'carbon'; known: region, pue, pue_source, price",
        ],
    ),
    (
        "budget: 9m",
        "footprint: world",
        [
            "13: footprint: must be a mapping, not 'world'",
        ],
    ),
    (
        "budget: 9m",
        "workload_options: {context: 64k, txt: sotu}",
        [
            "13: workload_options.context: must be a whole number, not '64k'",
            "13: workload_options.txt: unknown key 'txt', did you mean 'text'? known: context, text",
        ],
    ),
    (
        "budget: 9m",
        "workload_options: {context: 4, text: shakespeare}",
        [
            "13: workload_options.context: must be at least 8, not 4",
            "13: workload_options.text: unknown value 'shakespeare'; known: sotu, austen",
        ],
    ),
    (
        "budget: 9m",
        "recipe: {step: 5, precision: fp16, learning_rate: 3e-4}",
        [
            "13: recipe.step: unknown key 'step', did you mean 'steps'? known: steps, batch_size, "
            "learning_rate, warmup_share, decay_share, weight_decay, betas, clip_norm, precision, "
            "checkpointing, compile, evaluations, threads, sampled_steps, sampled_seconds, jitter_s",
            "13: recipe.precision: unknown value 'fp16', did you mean 'bf16'? known: fp32, bf16, pure-bf16",
            "13: recipe.learning_rate: must be a number, not '3e-4'; YAML takes 3e-4 for text, write 0.0003",
        ],
    ),
    (
        "budget: 9m",
        "recipe: {warmup_share: 0.6, decay_share: 0.6}",
        [
            "13: recipe: warmup_share + decay_share must be at most 1",
        ],
    ),
    (
        "budget: 9m",
        "recipe: {batch_size: 2.5, betas: [0.9], compile: 'true'}",
        [
            "13: recipe.batch_size: must be a whole number, not the number 2.5",
            "13: recipe.betas[1]: is missing",
            "13: recipe.compile: must be true or false, not 'true'; take the quotes away",
        ],
    ),
    (
        "budget: 9m",
        "\tbudget: 9m",
        [
            "13: a tab is used for indentation; YAML wants spaces",
        ],
    ),
    (
        "budget: 9m",
        "budget: [9m",
        [
            "14: is not valid YAML: expected ',' or ']', but got '<stream end>' (while parsing a flow sequence)",
        ],
    ),
    (
        "budget: 9m",
        "---\nname: two",
        [
            "13: has a second document ('---'); a suite is one document",
        ],
    ),
    (
        "    seeds: 3\n",
        "",
        [
            "8: experiments[0].seeds: is missing; a train experiment needs seeds, such as 'seeds: 3'",
        ],
    ),
    (
        "seeds: 3",
        "seeds: 0",
        [
            "10: experiments[0].seeds: a number of seeds must be from 1 to 1000, not 0",
        ],
    ),
    (
        "seeds: 3",
        "seeds: three",
        [
            "10: experiments[0].seeds: must be a number of seeds such as 3, or a list of them such as [0, 1, 2]",
        ],
    ),
    (
        "seeds: 3",
        "seeds: []",
        [
            "10: experiments[0].seeds: must name at least one seed",
        ],
    ),
    (
        "seeds: 3",
        "seeds: [0, 1, 1]",
        [
            "10: experiments[0].seeds: 1 is listed twice",
        ],
    ),
    (
        "seeds: 3",
        "seeds: [0, -1, 1.5, true]",
        [
            "10: experiments[0].seeds[1]: must be at least 0, not -1",
            "10: experiments[0].seeds[2]: must be a whole number, not the number 1.5",
            "10: experiments[0].seeds[3]: must be a whole number, not true (YAML reads it as true)",
        ],
    ),
    (
        "seeds: 3",
        "seeds: 010",
        [
            "10: experiments[0].seeds: YAML reads 010 as the octal number 8; write it without the leading 0",
        ],
    ),
    (
        "seeds: 3",
        "seeds: 99999999999999999999",
        [
            "10: experiments[0].seeds: is too big a number",
        ],
    ),
    (
        "sizes: [0.1M, 0.2M]",
        "sizes: [0.1M, 0.2N]",
        [
            "9: experiments[0].sizes[1]: unknown size '0.2N', did you mean '0.2M'? known: 0.1M, 0.2M, 1B, 13B",
        ],
    ),
    (
        "sizes: [0.1M, 0.2M]",
        "sizes: []",
        [
            "9: experiments[0].sizes: must name at least one of its sizes",
        ],
    ),
    (
        "sizes: [0.1M, 0.2M]",
        "sizes: 0.1M",
        [
            "9: experiments[0].sizes: must be a list of sizes, such as [0.1M]",
        ],
    ),
    (
        "sizes: [0.1M, 0.2M]",
        "sizes: [0.1M, 0.1M]",
        [
            "9: experiments[0].sizes: '0.1M' is listed twice",
        ],
    ),
    (
        "sizes: [0.1M, 0.2M]",
        "sizes: [0.1M, 350]",
        [
            '9: experiments[0].sizes[1]: must be text, not the number 350; put it in quotes: "350"',
        ],
    ),
    (
        "protocol: train",
        "protocol: trian",
        [
            "8: experiments[0].protocol: unknown value 'trian', did you mean 'train'? known: train, steady, count",
        ],
    ),
    (
        "protocol: train",
        "protocol: count",
        [
            "10: experiments[0].seeds: FLOPs are the same for every seed; take it away",
        ],
    ),
    (
        "protocol: train",
        "protocols: train",
        [
            "8: experiments[0].protocol: is missing",
            "8: experiments[0].protocols: unknown key 'protocols', did you mean 'protocol'? known: protocol, "
            "sizes, seeds, arms, recipe, factors, options",
        ],
    ),
    (
        "arms: [dense, again, sat, short]",
        "arms: [dense, agian, sat]",
        [
            "11: experiments[0].arms[1]: unknown arm 'agian', did you mean 'again'? known: again, sat, "
            "short, dense, dense-short",
        ],
    ),
    (
        "arms: [dense, again, sat, short]",
        "arms: [again, sat]",
        [
            "11: experiments[0].arms: the baseline 'dense' must take part: pairs are made with it",
        ],
    ),
    (
        "arms: [dense, again, sat, short]",
        "arms: [dense, short]",
        [
            "11: experiments[0].arms: arm 'short' matches 'sat', which must take part too",
        ],
    ),
    (
        "arms: [dense, again, sat, short]",
        "arms: [dense, dense]",
        [
            "11: experiments[0].arms: 'dense' is listed twice",
        ],
    ),
    (
        "arms: [dense, again, sat, short]",
        "arms: [dense, dense-short]",
        [
            "11: experiments[0].arms[1]: arm 'dense-short' needs an entry under arms that says which arm it matches",
        ],
    ),
    (
        "match: sat",
        "match: sta",
        [
            "6: arms.short.match: unknown arm 'sta', did you mean 'sat'? known: again, sat, short, dense, dense-short",
        ],
    ),
    (
        "match: sat",
        "match: short",
        [
            "6: arms.short.match: an arm can't match itself",
        ],
    ),
    (
        "{method: dense-short, match: sat}",
        "{method: dense-short}",
        [
            "6: arms.short: method 'dense-short' spends the FLOPs of another arm: name it with 'match: ARM'",
        ],
    ),
    (
        "{method: dense-short, match: sat}",
        "{method: dense-short, match: other}\n  other: {method: dense-short, match: short}",
        [
            "7: arms.other.match: arms match each other in a circle: other -> short -> other",
            "12: experiments[0].arms: arm 'short' matches 'other', which must take part too",
        ],
    ),
    (
        "again: dense",
        "again: dnse",
        [
            "4: arms.again: unknown method 'dnse', did you mean 'dense'? known: dense, dense-short, sat",
        ],
    ),
    (
        "again: dense",
        "again: 3",
        [
            "4: arms.again: must be a mapping, not the number 3",
        ],
    ),
    (
        "again: dense",
        "again:",
        [
            "4: arms.again: unknown method 'again'; known: dense, dense-short, sat; name the arm's method "
            "with 'method: ...'",
        ],
    ),
    (
        "again: dense",
        "again: {method: dense, match: sat}",
        [
            "4: arms.again.match: method 'dense' does not match another arm; take it away",
        ],
    ),
    (
        "{share: 0.25}",
        "{shar: 0.25}",
        [
            "5: arms.sat.shar: unknown key 'shar', did you mean 'share'? known: share, interval, mode",
        ],
    ),
    (
        "{share: 0.25}",
        "{share: 2, mode: skp, interval: 1e2}",
        [
            "5: arms.sat.share: must be at most 1, not 2",
            "5: arms.sat.mode: unknown value 'skp', did you mean 'skip'? known: skip, freeze",
            "5: arms.sat.interval: must be a whole number, not '1e2'; YAML takes 1e2 for text, write 100",
        ],
    ),
    (
        "{share: 0.25}",
        "{share: 0.25, options: {share: 0.5}}",
        [
            "5: arms.sat.options.share: appears twice, also as sat.share",
        ],
    ),
    (
        "{share: 0.25}",
        "{options: 3}",
        [
            "5: arms.sat.options: must be a mapping, not the number 3",
        ],
    ),
    (
        "  - protocol: train\n",
        "  - 3\n  - protocol: train\n",
        [
            "8: experiments[0]: must be a mapping, not the number 3",
        ],
    ),
    (
        "budget: 9m",
        "  - {protocol: train, sizes: [0.2M], seeds: [5, 2], arms: [dense]}",
        [
            "13: experiments[1].sizes[0]: train at 0.2M, seed 2 is in experiments[0] already",
        ],
    ),
    (
        "recipe: {steps: 50}",
        "options: {context: 4}",
        [
            "12: experiments[0].options.context: must be at least 8, not 4",
        ],
    ),
    (
        "recipe: {steps: 50}",
        "recipe: [steps, 50]",
        [
            "12: experiments[0].recipe: must be a mapping, not a list",
        ],
    ),
]


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize(
    ("old", "new", "lines"), MISTAKES, ids=[new.strip()[:40] or old[:20] for old, new, _ in MISTAKES]
)
def test_a_mistake_has_its_exact_message(old: str, new: str, lines: list[str]) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(SuiteError) as raised:
        loads(GOOD.replace(old, new), "suite.yaml")
    assert list(raised.value.problems) == [f"suite.yaml:{line}" for line in lines]
    assert str(raised.value) == "\n".join(raised.value.problems)
    assert raised.value.exit_code == 2


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize(
    ("footprint", "expected"),
    [
        ("{region: Germany}", "suite.yaml:13: footprint.region: unknown region 'Germany', did you mean 'DEU'?"),
        ("{region: Atlantis}", "suite.yaml:13: footprint.region: unknown region 'Atlantis'"),
        ("{price: h1000}", "suite.yaml:13: footprint.price: unknown price 'h1000', did you mean 'h100'? known: "),
    ],
)
def test_factors_that_are_in_no_table(footprint: str, expected: str) -> None:
    with pytest.raises(SuiteError) as raised:
        loads(GOOD.replace("budget: 9m", f"footprint: {footprint}"), "suite.yaml")
    assert str(raised.value).startswith(expected)


@pytest.mark.usefixtures("toys")
def test_the_good_file_is_good() -> None:
    assert loads(GOOD).name == "demo"


@pytest.mark.usefixtures("toys")
def test_all_mistakes_come_at_once_in_the_order_of_the_file() -> None:
    text = GOOD
    for old, new in (
        ("workload: toy", "workload: [toy]"),
        ("again: dense", "again: dnse"),
        ("0.2M", "0.2N"),
        ("seeds: 3", "seeds: none"),
        ("steps: 50", "step: 50"),
        ("budget: 9m", "budget: 9:00\nbudget: 3\nextra: *x"),
    ):
        text = text.replace(old, new)
    with pytest.raises(SuiteError) as raised:
        loads(text, "s.yaml")
    assert [(problem.where, problem.key) for problem in raised.value.details] == [
        ("s.yaml:2", "workload"),
        ("s.yaml:4", "arms.again"),
        ("s.yaml:10", "experiments[0].seeds"),
        ("s.yaml:12", "experiments[0].recipe.step"),
        ("s.yaml:13", "budget"),
        ("s.yaml:14", "budget"),
        ("s.yaml:15", ""),
        ("s.yaml:15", "extra"),
    ]
