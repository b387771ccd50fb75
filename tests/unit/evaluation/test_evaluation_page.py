from __future__ import annotations

import html
import re
from html.parser import HTMLParser

import evaluations
import pytest

from mmtraits import report
from mmtraits.evaluation import views
from mmtraits.evaluation.contents import Estimate


class _Seen(HTMLParser):
    """Tags balance; collects the text of table cells, charts' titles and links."""

    VOID = ("meta",)

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.charts = self.titles = 0
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        assert tag not in ("script", "link", "img", "iframe") and "src" not in given and "onclick" not in given
        if "href" in given:
            assert given["href"].startswith("#"), "the page loads and links nothing outside"
            self.links.add(given["href"][1:])
        if "id" in given:
            assert given["id"] not in self.ids
            self.ids.add(given["id"])
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
        self.charts += tag == "svg"
        self.titles += tag == "title" and "svg" in self.open

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.cells[-1] += " " + data


def evaluation_page(tmp_path, found) -> str:
    report.write_evaluation(tmp_path / "report.html", found)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def leaves(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


@pytest.fixture(scope="module")
def full():
    return evaluations.full()


@pytest.fixture(scope="module")
def text(full, tmp_path_factory):
    return evaluation_page(tmp_path_factory.mktemp("page"), full)


@pytest.mark.parametrize("make", [evaluations.full, evaluations.small])
def test_evaluation_page_is_whole_and_loads_nothing(tmp_path, make):
    text = evaluation_page(tmp_path, make())
    seen = _Seen(text)
    assert "http:" not in text and "https:" not in text and "@import" not in text and "url(" not in text
    assert html.escape(report.STATEMENT, quote=False) in text
    assert seen.links <= seen.ids and seen.charts == seen.titles > 0
    assert not re.search(r"\b(nan|inf|None|null)\b", text)


@pytest.mark.parametrize("make", [evaluations.full, evaluations.small])
def test_every_number_in_a_table_is_of_the_evaluation(tmp_path, make):
    found = make()
    known = {"95"}  # "95 %", the percentile of a nuisance
    for leaf in leaves(found.model_dump(mode="json")):
        if isinstance(leaf, int | float) and not isinstance(leaf, bool):
            known |= {views.number(leaf, digits) for digits in range(5)} | {f"{leaf:g}"}
        elif isinstance(leaf, str):
            known |= set(re.findall(r"\d+(?:\.\d+)?", leaf))
    cells = _Seen(evaluation_page(tmp_path, found)).cells
    numbers = {n for cell in cells if "0 to 1" not in cell and "fewer than 30" not in cell for n in _numbers(cell)}
    assert len(numbers) > (400 if make is evaluations.full else 4)
    assert numbers <= known, sorted(numbers - known)[:10]


def _numbers(cell: str) -> list[str]:
    return re.findall(
        r"(?<![\w.-])−?\d+(?:\.\d+)?(?![\w.])", re.sub(r"C-index|W1 |R²|macro F1|(?<=\d)–(?=\d)", " ", cell)
    )


def test_model_stands_beside_training_mean_and_best_floor(full, text):
    headline = text[text.index('<tbody class="headline">') :].split("</tbody>")[0]
    systems = {system.name: system.table.mean for system in full.rows[0].systems}
    for metric in ("one_minus_mae", "skill", "ccc", "pearson"):
        digits = views.METRICS[metric].digits
        for name in ("model", "training mean"):
            assert f">{views.number(systems[name][metric].value, digits)}<" in headline
        best = max(
            (s for s in full.rows[0].systems if s.kind == "floor"), key=lambda s: s.table.mean[metric].value or -9
        )
        assert views.number(best.table.mean[metric].value, digits) in headline
        assert views.number(best.table.mean[metric].lower, digits) in headline
        assert best.name.replace("_", " ") in headline


def test_findings_stand_on_top_by_level(full, text):
    for finding in full.findings:
        assert html.escape(finding.text, quote=False).replace("'", "&#39;") in text
        assert f"<code>{finding.kind}</code>" in text
    order = [finding.kind for level in ("fail", "warn", "info") for finding in full.findings if finding.level == level]
    assert re.findall(r"<code>(\w+)</code>", text.split("</ul>")[0]) == order
    assert text.index("persons_shared") < text.index('id="systems"')


def test_what_is_undefined_is_a_dash_and_said(tmp_path):
    found = evaluations.small()
    text = evaluation_page(tmp_path, found)
    cells = " ".join(_Seen(text).cells)
    assert "undefined: 2" in cells and "–" in cells
    assert not re.search(r"\b0\.0+\b", cells)
    assert "Not measured:" in text and "subgroup audit" in text
    assert "no attribute column: no audit" in text
    for part in ("intervals", "audits", "robustness", "nuisances", "reliability", "leakage"):
        assert f'id="{part}"' not in text
    assert "persons, the scores of their clips averaged first" in text


def test_suppressed_groups_are_said_and_only_counted(full, text):
    assert "Suppressed, for fewer than 30 units: 70+ (12)." in text
    row = re.search(r'<tr><th scope="row">70\+</th>(.*?)</tr>', text)[1]
    assert row.count("<td>–</td>") == 2 and "no: fewer than 30" in row
    assert text.count('<tr><th scope="row">70+</th>') == 1


def table(text: str, about: str) -> dict[str, list[str]]:
    """First word or words of each row -> its cells' numbers and dashes, in order."""
    body = text[text.index(f'<table aria-label="{html.escape(about)}">') :].split("</table>")[0]
    found = {}
    for name, row in re.findall(
        r'<tr[^>]*><th scope="row">(.*?)(?:<small>.*?</small>)?</th>(.*?)</tr>', body, re.DOTALL
    ):
        plain = re.sub(r"<[^>]+>|95 %:|undefined: 12", " ", row)
        found.setdefault(html.unescape(name), re.findall(r"(?<![\w.-])−?\d+(?:\.\d+)?|–", plain))
    return found


def written(*values, digits=3) -> list[str]:
    """Numbers as the page writes them; an estimate with its interval."""
    texts = []
    for value in values:
        if isinstance(value, Estimate):
            ends = () if value.lower is None else (value.lower, value.upper)
            texts += [views.number(part, digits) for part in (value.value, *ends)]
        else:
            texts.append(str(value) if isinstance(value, int) else views.number(value, digits))
    return texts


def metrics_written(found, names) -> list[str]:
    return [text for name in names for text in written(found[name], digits=views.METRICS[name].digits)]


def test_tables_of_systems_and_traits(full, text):
    names = [name for name in views.METRICS if name in evaluations.METRICS]
    for rows in full.rows:
        shown = table(text, f"Systems, mean over traits: {rows.name}")
        for system in rows.systems:
            assert shown[system.name] == [
                *metrics_written(system.table.mean, names),
                *re.findall(r"\d+|–", views.units(system.table)),
            ]
        shown = table(text, f"The model per trait: {rows.name}")
        for trait, row in rows.systems[0].table.traits.items():
            assert shown[views.label(trait)] == [*metrics_written(row.metrics, names), *written(row.n, row.unscored)]


def test_tables_of_intervals(full, text):
    shown = table(text, "Coverage and width per set of present streams, traits 7 to 12")
    for part in full.intervals:
        rows = [part.traits[trait] for trait in evaluations.TRAITS[6:]]
        expected = [text for row in rows for text in written(row.coverage, row.width, row.constant_width, row.n)]
        assert shown[part.name] == expected


def test_tables_of_audits(full, text):
    for audit in full.audits:
        by = " × ".join(audit.attributes)
        shown = table(text, f"Per trait and group by {by}")
        for group in audit.groups:
            if not group.suppressed:
                row = group.traits["openness"]  # the first trait; later ones repeat the names of the groups
                expected = written(
                    row.n, row.mae, row.signed_error, row.ccc, row.ks_scores, row.ks_labels, row.wasserstein_scores,
                    row.wasserstein_labels, row.bias_amplification, row.scoring_rate, row.impact_ratio,
                    row.label_impact_ratio, row.coverage,
                )  # fmt: skip
                assert shown[views.group_name(group)] == expected
        shown = table(text, f"Between the groups by {by}")
        for trait, gap in audit.gaps.items():
            ratio = views.number(gap.mae_ratio, 2)
            expected = [
                *written(gap.signed_error, gap.mae_difference),
                ratio,
                *written(gap.max_ks, gap.min_impact_ratio),
            ]
            assert shown[views.label(trait)] == expected


def test_tables_of_robustness_nuisances_and_reliability(full, text):
    names = ("one_minus_mae", "ccc", "pearson")
    shown = table(text, "The model given these streams only, on the clips that have them; mean over traits")
    for subset in full.robustness.subsets:
        assert shown[" + ".join(subset.streams)] == [*metrics_written(subset.mean, names), str(subset.clips)]
    shown = table(text, "Mean over traits when streams are dropped")
    assert [shown[f"{point.rate:g}"] for point in full.robustness.drop_curve] == [
        metrics_written(point.mean, names) for point in full.robustness.drop_curve
    ]
    shown = table(text, "Mean over traits by window length")
    assert [shown[f"{point.length_s:g}"] for point in full.robustness.windows] == [
        metrics_written(point.mean, names) for point in full.robustness.windows
    ]
    shown = table(text, "Disturbed input, traits 1 to 6")
    for nuisance in full.nuisances:
        expected = []
        for trait in evaluations.TRAITS[:6]:
            change = nuisance.traits[trait]
            expected += written(change.median_abs, change.p95_abs, change.mean, change.ccc)
            expected.append(views.number(change.ccc_retained, 2))
        assert shown[f"{nuisance.name}, {nuisance.strength}"] == expected
    shown = table(text, "Agreement between clips of one person")
    for trait, both in full.reliability.items():
        assert shown[views.label(trait)] == written(both.icc_labels, both.icc_scores)


def test_borrowed_intervals_are_said(full, text):
    assert "split conformal, 0.90; borrowed: not claimed" in text
    assert ">not claimed<" in text


def test_names_in_an_evaluation_are_escaped(full, tmp_path):
    text = evaluation_page(tmp_path, full.model_copy(update={"name": "<script>alert(1)</script>"}))
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "Invented Corpus &lt;2&gt;" in text


def test_an_evaluation_without_rows_has_a_page(full, tmp_path):
    empty = full.model_copy(update={"rows": [], "pictures": {}, "audits": [], "findings": []})
    text = evaluation_page(tmp_path, empty)
    _Seen(text)
    assert "No rows were scored." in text
    assert "None: no check of this evaluation found anything to say." in text
