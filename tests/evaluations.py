"""Fabricated evaluations: `full` has every part filled and awkward names, `small` is ten clips and little defined."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mmtraits.evaluation.contents import (
    Audit,
    Bin,
    Change,
    Comparison,
    Coverage,
    CoverageRow,
    Difference,
    DropPoint,
    Estimate,
    Evaluation,
    Finding,
    Gap,
    Group,
    GroupRow,
    Leakage,
    Nuisance,
    Picture,
    Reliability,
    Robustness,
    Row,
    RowSet,
    Subset,
    System,
    Table,
    WindowPoint,
)  # fmt: skip

TRAITS = (
    "openness", "conscientiousness", "extraversion", "agreeableness", "emotional_stability",
    "negative_impression_management_of_the_speaker", "interview_answer_quality", "confidence", "facial_expressiveness",
    "spoken_word_choice", "überzeugungskraft", "overall_score",
)  # fmt: skip
METRICS = (
    "one_minus_mae", "mae", "skill", "rmse", "ccc", "pearson", "spearman", "c_index", "r2", "spread", "tail_mae",
)  # fmt: skip
LONG_GROUP = "prefers not to say, or described in own words that do not fit a form"


def schema(names: Iterable[str] = TRAITS, **changes: object) -> dict[str, object]:
    traits = [{"name": name, "kind": "continuous", "low": 0.0, "high": 1.0, "opposite_of": None} for name in names]
    return {
        "name": "Invented Corpus <2>", "traits": traits, "construct": "apparent", "transform": "min_max",
        "judged_by": "three invented annotators per clip", "rated": "clip", **changes,
    }  # fmt: skip


class _Maker:
    """Numbers that look like results, the same in every run."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(7)

    def near(self, value: float, sd: float = 0.01) -> float:
        return round(float(self.rng.normal(value, sd)), 6)

    def estimate(self, value: float, half: float = 0.02) -> Estimate:
        at = self.near(value)
        return Estimate(value=at, lower=round(at - half, 6), upper=round(at + half, 6))

    def metrics(self, quality: float) -> dict[str, Estimate]:
        """quality: the correlation that the others follow from; 0 is a constant."""
        undefined = {"pearson", "spearman"} if quality == 0 else set()
        values = {
            "one_minus_mae": 0.88 + 0.05 * quality, "mae": 0.12 - 0.05 * quality, "skill": 0.4 * quality,
            "rmse": 0.15 - 0.05 * quality, "ccc": 0.8 * quality, "pearson": quality, "spearman": 0.95 * quality,
            "c_index": 0.5 + 0.3 * quality, "r2": quality**2, "spread": 0.7 * quality, "tail_mae": 0.25 - 0.1 * quality,
        }  # fmt: skip
        return {name: Estimate(value=None) if name in undefined else self.estimate(values[name]) for name in METRICS}

    def table(self, quality: float, n: int, unscored: int = 0) -> Table:
        rows = {name: Row(metrics=self.metrics(quality), n=n - k, unscored=unscored) for k, name in enumerate(TRAITS)}
        undefined = {"pearson": len(TRAITS), "spearman": len(TRAITS)} if quality == 0 else {}
        return Table(traits=rows, mean=self.metrics(quality), undefined=undefined)

    def difference(self, value: float, p: float) -> Difference:
        at = self.near(value, 0.001)
        half = 0.5 * abs(value) if p < 0.05 else 2 * abs(value) + 0.002
        return Difference(value=at, lower=at - half, upper=at + half, p=p, p_holm=min(1.0, 12 * p))

    def comparison(self, system: str, metric: str, value: float, p: float) -> Comparison:
        traits = {name: self.difference(value if k % 3 else -value, p) for k, name in enumerate(TRAITS)}
        return Comparison(system=system, metric=metric, traits=traits, mean=self.difference(value, p))

    def row_set(self, name: str, clips: int) -> RowSet:
        kinds = [
            ("model", "model", "the mean of ten members, each on rows outside its training", 0.42),
            ("face + voice", "streams", "the model given these streams only", 0.38),
            ("voice", "streams", "the model given this stream only", 0.33),
            *((f"seed {seed}", "seed", "one seed, out of fold", 0.4) for seed in range(5)),
            ("training mean", "floor", "the mean of the training labels", 0.0),
            ("training median", "floor", "the median of the training labels", 0.0),
            ("demographics only", "floor", "ridge on gender, age_band and first_language", 0.11),
            ("identity look-up", "floor", "the person's other labels in training, no content at all", 0.64),
            ("TF-IDF ridge", "floor", "ridge on words and pairs of words of the transcript", 0.21),
            ("ridge on voice", "floor", "ridge on 26 voice statistics", 0.37),
            ("ridge on face + voice + an_external_stream_with_a_long_name", "floor", "ridge on all, joined", 0.39),
        ]
        systems = [
            System(name=of, kind=kind, about=about, table=self.table(quality, clips, 3 if kind == "model" else 0))
            for of, kind, about, quality in kinds
        ]
        comparisons = [
            self.comparison(of, metric, sign * (0.42 - quality) * 0.1, 0.6 if abs(quality - 0.39) < 0.02 else 0.0002)
            for of, _, _, quality in kinds[8:]
            for metric, sign in (("mae", -1), ("ccc", 1))
        ]
        return RowSet(name=name, clips=clips, persons=clips // 3, units=clips, systems=systems, comparisons=comparisons)

    def picture(self) -> Picture:
        scores = np.sort(self.rng.normal(0.5, 0.08, 500))
        labels = np.clip(0.5 + 1.1 * (scores - 0.5) + self.rng.normal(0, 0.12, 500), 0, 1)
        bins = [
            Bin(n=len(part), score=float(part.mean()), label=float(labels[50 * k : 50 * k + 50].mean()))
            for k, part in enumerate(np.split(scores, 10))
        ]
        points = [(round(float(a), 4), round(float(b), 4)) for a, b in zip(scores, labels, strict=True)]
        return Picture(bins=bins, points=points[::2])

    def coverage(self, name: str, method: str, borrowed: bool = False) -> Coverage:
        traits = {
            trait: CoverageRow(
                n=0 if borrowed else 900 + k,
                coverage=Estimate(value=None) if borrowed else self.estimate(0.9),
                width=None if borrowed else self.near(0.45),
                constant_width=self.near(0.5),
            )
            for k, trait in enumerate(TRAITS)
        }
        return Coverage(name=name, method=method, level=0.9, borrowed=borrowed, traits=traits)

    def group_row(self, n: int, shift: float) -> GroupRow:
        return GroupRow(
            n=n, mae=self.estimate(0.1), signed_error=self.estimate(shift), ccc=self.estimate(0.3),
            ks_scores=self.near(0.12), ks_labels=self.near(0.08), wasserstein_scores=self.near(0.02),
            wasserstein_labels=self.near(0.03), bias_amplification=self.estimate(1.15, 0.4),
            scoring_rate=self.near(0.5), impact_ratio=self.near(0.85), label_impact_ratio=self.near(0.9),
            coverage=self.near(0.89),
        )  # fmt: skip

    def group(self, values: dict[str, str], n: int, shift: float = 0.0) -> Group:
        if n < 30:
            return Group(values=values, clips=n, units=n, suppressed=True)
        traits = {trait: self.group_row(n, shift) for trait in TRAITS}
        return Group(
            values=values, clips=n, units=n, suppressed=False, failed_rate=0.004, degraded_rate=self.near(0.2),
            traits=traits,
        )  # fmt: skip

    def audit(self, attributes: list[str], groups: list[Group], unknown: int) -> Audit:
        gaps = {
            trait: Gap(
                signed_error=self.estimate(0.05), mae_difference=self.estimate(0.01), mae_ratio=self.near(1.1),
                max_ks=self.near(0.12), min_impact_ratio=self.near(0.82),
            )
            for trait in TRAITS
        }  # fmt: skip
        notes = [f"{unknown} units have no value of {' or '.join(attributes)}: they are in no group"]
        return Audit(attributes=attributes, unknown=unknown, groups=groups, gaps=gaps, notes=notes)

    def mean(self, quality: float) -> dict[str, Estimate]:
        kept = self.metrics(quality)
        return {name: kept[name] for name in ("one_minus_mae", "ccc", "pearson")}

    def nuisance(self, name: str, strength: str, stream: str) -> Nuisance:
        traits = {
            trait: Change(
                mean=self.near(0.0), median_abs=abs(self.near(0.01)), p95_abs=abs(self.near(0.04)),
                ccc=self.near(0.3), ccc_retained=self.near(0.9),
            )
            for trait in TRAITS
        }  # fmt: skip
        return Nuisance(name=name, strength=strength, stream=stream, clips=200, lost=2, traits=traits)


def full() -> Evaluation:
    """Everything filled: twelve traits, long names, three audits with a suppressed group, a leak that was allowed."""
    make = _Maker()
    gender = [make.group({"gender": "1"}, 5200, -0.012), make.group({"gender": "2"}, 4500, 0.034)]
    ages = [make.group({"age_band": age}, n, s) for age, n, s in (("18-29", 800, 0.0), ("30-49", 90, 0.02))]
    ages += [make.group({"age_band": LONG_GROUP}, 41, -0.06), make.group({"age_band": "70+"}, 12)]
    crossed = [
        make.group({"gender": gender, "age_band": age}, n, shift)
        for gender, age, n, shift in (("1", "18-29", 420, 0.01), ("2", LONG_GROUP, 31, -0.08), ("2", "70+", 4, 0.0))
    ]
    return Evaluation(
        name="face_voice_text_<late>", source="checkpoints/invented", kind="run", manifest="invented/clips.csv",
        split="test", trait_schema=schema(), unit="clip",
        protocol="Out of fold: 5 folds of 9781 clips, no person in two of them.", streams=["face", "voice", "text"],
        rows=[make.row_set("all", 9781), make.row_set("with voice", 7998)],
        pictures={trait: make.picture() for trait in TRAITS},
        intervals=[
            *(make.coverage(name, "cqr") for name in ("face", "voice", "text", "face + text", "voice + text")),
            make.coverage("face + voice", "split_conformal", borrowed=True),
            make.coverage("face + voice + text", "split_conformal", borrowed=True),
        ],
        interval_groups=[make.coverage("gender = 1", "cqr"), make.coverage(f"age_band = {LONG_GROUP}", "cqr")],
        audits=[
            make.audit(["gender"], gender, 81), make.audit(["age_band"], ages, 0),
            make.audit(["gender", "age_band"], crossed, 81),
        ],
        robustness=Robustness(
            subsets=[
                Subset(streams=list(some), clips=n, mean=make.mean(q))
                for some, n, q in ((("face",), 1781, 0.2), (("voice",), 7998, 0.33), (("voice", "text"), 7990, 0.41))
            ],
            drop_curve=[DropPoint(rate=n / 10, mean=make.mean(0.42 - 0.02 * n)) for n in range(8)],
            windows=[
                WindowPoint(length_s=s, clips=240, mean=make.mean(q)) for s, q in ((3, 0.3), (7.5, 0.37), (15, 0.4))
            ],
            shapley={"face": 0.21, "voice": 0.47, "text": 0.32},
        ),
        nuisances=[
            make.nuisance("brightness", "× 0.5", "face"), make.nuisance("blur", "σ 4 px", "face"),
            make.nuisance("noise", "0 dB SNR", "voice"), make.nuisance("word errors", "30 %", "text"),
        ],
        reliability={trait: Reliability(icc_labels=make.near(0.6), icc_scores=make.near(0.8)) for trait in TRAITS},
        leakage=Leakage(persons_shared=1201, clips_shared=1680, near_duplicates=7, allowed=True),
        resamples={"sums": 10_000, "ranks": 500, "groups": 1_000},
        findings=[
            Finding(level="info", kind="shrunk", text="Scores spread 0.29 as wide as labels."),
            Finding(level="warn", kind="bias_amplified", text="gender = 2: scores widen the labels' <gap> 1.3 times"),
            Finding(level="fail", kind="persons_shared", text="1201 persons are in training and in the test rows."),
            Finding(level="warn", kind="floor", text="identity look-up is better than the model in every trait."),
        ],
        notes=["windows were measured on 240 clips with media"],
        provenance={
            "data": {"manifest_sha256": "0f" * 32, "split_sha256": "a9" * 32}, "seeds": [0, 1, 2, 3, 4],
            "versions": {"mmtraits": "0.2.0", "numpy": "2.4.0"}, "hardware": "2 cores", "members": ["fold0", "fold1"],
            "config": "first_impressions", "device": None,
        },
    )  # fmt: skip


def small() -> Evaluation:
    """Ten clips, a constant model: correlations undefined, no interval, nothing else measured."""
    undefined = {name: Estimate(value=None) for name in ("ccc", "pearson", "skill")}
    metrics = {"one_minus_mae": Estimate(value=0.9), "mae": Estimate(value=0.1), **undefined}
    names = ("openness", "extraversion")
    rows = {"openness": Row(metrics=metrics, n=10), "extraversion": Row(metrics=undefined, n=0, unscored=4)}
    table = Table(traits=rows, mean=metrics, undefined={"ccc": 2, "pearson": 2, "skill": 2})
    model = System(name="model", kind="model", about="one member", table=table)
    return Evaluation(
        name="tiny", source="tiny", kind="bundle", manifest="clips.csv", split="test",
        trait_schema=schema(names, rated="person"), unit="person", protocol="Held-out test rows.", streams=["text"],
        rows=[RowSet(name="all", clips=10, persons=4, units=4, systems=[model])],
        pictures={"openness": Picture(bins=[Bin(n=10, score=0.5, label=0.4)], points=[(0.5, 0.4)] * 10)},
        resamples={}, notes=["no attribute column: no audit"], provenance={},
        findings=[Finding(level="warn", kind="constant", text="openness: every score is the same.")],
    )  # fmt: skip
