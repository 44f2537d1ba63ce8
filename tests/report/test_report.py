"""The page of ``jaxbrewer report``: what it shows, that it loads nothing, how it looks."""

import html
import html.parser
import json
import re
import shutil
import subprocess
import tempfile

import numpy as np
import pytest

from jaxbrewer import UsageError
from jaxbrewer.cli import main
from jaxbrewer.report.page import report_page
from jaxbrewer.report.records import differing_settings, find_records, read_run
from jaxbrewer.report.svg import Line, line_chart, nice_ticks
from tests.report.conftest import MATCHES, NAMES, write_run, write_study

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

OVERLAPS = """
<script>
addEventListener("load", () => {
  document.querySelectorAll("details").forEach((part) => { part.open = true; });
  const found = [];
  for (const svg of document.querySelectorAll("svg")) {
    const frame = svg.getBoundingClientRect();
    const boxes = [...svg.querySelectorAll("text")].map((text) => [
      text.textContent, text.getBoundingClientRect()]);
    boxes.forEach(([name, a], i) => {
      if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.top < frame.top - 1
        || a.bottom > frame.bottom + 1) found.push(`cut: ${name}`);
      for (const [other, b] of boxes.slice(i + 1)) {
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (wide > 1 && high > 1) found.push(`${name} / ${other}`);
      }
    });
  }
  const page = document.documentElement;
  if (page.scrollWidth > page.clientWidth + 1) found.push("the page scrolls sideways");
  const list = document.createElement("pre");
  list.id = "found";
  list.textContent = JSON.stringify({ texts: document.querySelectorAll("svg text").length, found });
  document.body.append(list);
});
</script>
"""


class Page(html.parser.HTMLParser):
    """Collects tags, and checks that they are closed in order."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def page_of(path):
    return report_page(*find_records([path]), title="Report")


def test_the_page_is_well_formed_and_loads_nothing(runs):
    text = page_of(runs)
    for tag, attributes in Page(text).tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "source")
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith(("#", "file:"))
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in text
    assert "url(" not in text


def test_every_curve_of_a_run_is_drawn(runs):
    text = page_of(runs / "first")
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", text[text.index('id="run0"') :])
    assert titles == ["total loss", "kd loss", "learning rate", "grad norm", "Layer map"]
    assert "raw" in text
    assert "weighted" in text


def test_a_curve_is_drawn_at_its_values():
    chart = line_chart("loss", [Line("a", np.array([[0.0, 10.0], [0.0, 1.0]]), 0)])
    (path,) = re.findall(r'class="line stroke0" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', chart)
    left, low, right, high = map(float, path)
    grid = [float(y) for y in re.findall(r'class="grid" x1="54" y1="([\d.]+)"', chart)]
    assert (low, high) == (max(grid), min(grid))
    assert left == 54
    assert right == 360 - 14


def test_a_long_curve_is_drawn_by_means_with_its_range():
    values = np.random.default_rng(0).normal(size=5000)
    chart = line_chart("noise", [Line("a", np.array([np.arange(5000), values]), 0)])
    assert chart.count("L") < 300
    assert '<polygon class="band fill0"' in chart


@pytest.mark.parametrize("values", [[1.0, np.nan, 3.0], [np.inf] * 3, [2.0] * 3, [-1e-12, 0, 1e30]])
def test_odd_values_give_a_chart_without_odd_numbers(values):
    chart = line_chart("odd", [Line("a", np.array([[1, 2, 3], values]), 0)])
    assert "nan" not in chart
    assert "inf" not in chart.replace("finite", "")


def test_ticks_are_round_and_span_the_range():
    draw = np.random.default_rng(0)
    for _ in range(200):
        low, high = np.sort(draw.normal(size=2) * 10.0 ** draw.integers(-9, 9))
        ticks = nice_ticks(low, high)
        assert ticks[0] <= low
        assert ticks[-1] >= high
        assert 3 <= len(ticks) <= 8


def test_the_layer_map_joins_the_layers_of_each_match(runs):
    text = page_of(runs / "first")
    joined = re.findall(r"<title>(\w+): student (\d+), teacher (\d+)</title>", text)
    assert [(name, int(s), int(t)) for name, s, t in joined] == [
        (match["feature"], match["layer_S"], match["layer_T"]) for match in MATCHES
    ]


def test_scores_have_their_intervals_and_each_model_one_row(runs):
    text = page_of(runs)
    assert text.count(">0.9000 [0.880, 0.920]<") == 1  # the teacher of both runs
    assert "student of runs/first" in text
    assert "teacher of" not in text
    assert ">0.8100 [0.790, 0.830]<" in text


def test_a_teacher_worse_than_a_linear_model_is_called_out(runs):
    assert "linear model" not in page_of(runs)
    path = runs / "first" / "results.json"
    check = {
        "path": "dev.tsv",
        "examples": 500,
        "teacher": {"accuracy": 0.61, "macro_f1": 0.5},
        "linear": {"accuracy": 0.64},
        "is_teacher_worse": True,
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), "linear_baseline": check}))
    text = page_of(runs)
    assert "the teacher is worse than a linear model on words" in text
    assert "(accuracy 0.6100 and 0.6400 on 500 texts of dev.tsv)" in text


def test_quality_is_drawn_against_size_and_speed(runs):
    text = page_of(runs / "first")
    points = re.findall(r"<title>(\w+): ([\d.e+]+), 0.[89]</title>", text)
    assert points == [
        ("teacher", "90.85"), ("student", "17.54"), ("teacher", "2.271"), ("student", "0.4386"),
        ("teacher", "440.3"), ("student", "2280"),
    ]  # fmt: skip


def test_confusion_and_reliability_are_drawn(runs):
    text = page_of(runs / "first")
    assert f"dog as {NAMES[2]}: 4 (13%)" in text
    assert text.count('class="heat"') == 2 * 9
    assert "confidence 0.967, accuracy 0.967, 14 predictions" in text


def test_a_study_is_drawn_with_its_intervals_and_learning_curve(runs, tmp_path):
    write_study(runs / "study")
    text = page_of(runs)
    assert "Study runs/study" in text
    assert "+0.0500 [+0.0200, +0.0800]" in text
    bars = re.findall(r'aria-label="([-\d.]+) between ([-\d.]+) and ([-\d.]+)"', text)
    assert bars[0] == ("0.05", "0.02", "0.08")
    assert "accuracy by the number of labels" in text
    alone = report_page(*find_records([runs / "study"]), title="Study")
    assert Page(alone).tags
    assert "Settings" not in alone


def test_settings_that_differ_are_set_side_by_side(runs):
    found = differing_settings(find_records([runs]).runs)
    assert found == {"training.seed": ["0", "1"], "distillation.temperature": ["4", "8"]}
    assert "Settings that differ" in page_of(runs)


def test_text_from_files_is_escaped(tmp_path):
    run = write_run(tmp_path / "run", kd_loss_type="<script>alert(1)</script>")
    (run / "metrics.jsonl").write_text('{"step": 1, "<img src=x>": 1.0}\n')
    text = page_of(run)
    assert "<script" not in text
    assert "<img" not in text


def test_an_incomplete_last_line_of_metrics_is_skipped(runs):
    path = runs / "first" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 61, "total')
    assert read_run(runs / "first").last_step == 60


def test_the_command_writes_the_page_and_replaces_an_earlier_one(runs, tmp_path, capsys):
    output = tmp_path / "pages" / "report.html"
    for _ in range(2):
        assert main(["report", str(runs), "--output", str(output), "--title", "Two & two"]) == 0
    assert "<h1>Two &amp; two</h1>" in output.read_text()
    assert capsys.readouterr().out.startswith(f"{output}: 2 runs, ")
    assert re.search(r"<td[^>]*>(teacher [\d,]+, )?trained [\d,]+", output.read_text())


def test_bad_runs_are_refused_in_one_line(runs, tmp_path, capsys):
    def refused(*words):
        assert main(["report", *map(str, words)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "nowhere does not exist" in refused(tmp_path / "nowhere")
    assert "holds no run" in refused(tmp_path / "runs" / "first" / "model")
    assert "is a directory" in refused(runs, "--output", tmp_path)
    (runs / "first" / "metrics.jsonl").write_text('{"step": 1, "loss": "high"}\n')
    assert "metrics.jsonl:1" in refused(runs)
    (runs / "first" / "manifest.json").write_text("[1]")
    assert "manifest.json" in refused(runs)
    with pytest.raises(UsageError, match="holds no run"):
        find_records([tmp_path])


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_no_text_overlaps_in_a_browser(runs, tmp_path, width):
    write_study(runs / "study")
    page = tmp_path / "page.html"
    page.write_text(page_of(runs).replace("</body>", f"{OVERLAPS}</body>"))
    printed = chromium("--dump-dom", f"--window-size={width},2000", page.as_uri())
    (found,) = re.findall(r'<pre id="found">(.*?)</pre>', printed)
    report = json.loads(html.unescape(found))
    assert report["texts"] > 50
    assert report["found"] == []


def chromium(*flags):
    """What Chromium prints."""
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [
                CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu",
                f"--user-data-dir={profile}", *flags,
            ],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    return done.stdout


CLIPPED = """<script>
const cut = [...document.querySelectorAll("body, main, section, div, table, figure, td, li")]
  .filter(one => one.scrollWidth > one.clientWidth + 1 && one.clientWidth > 0 &&
    (one.tagName == "BODY" || getComputedStyle(one).overflowX != "visible"))
  .map(one => `${one.tagName} ${one.className}: ${one.scrollWidth} in ${one.clientWidth}`);
document.body.innerHTML = `<pre id="found">${JSON.stringify(cut)}</pre>`;
</script>"""
"""Lists the elements whose content is wider than the paper, or hidden by their own edges."""
WIDE = '<div class="wide"><table><tr>' + "<td>accuracy 0.9120</td>" * 15 + "</tr></table></div>"


def test_the_page_has_a_style_for_paper(runs):
    (style,) = re.findall(r"@media print \{(.*?)\n\}?</style>", page_of(runs), re.DOTALL)
    for rule in ("nav { display: none; }", "break-inside: avoid", "break-after: avoid"):
        assert rule in style
    assert "overflow: visible" in style


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_nothing_is_clipped_on_paper(runs, tmp_path):
    write_study(runs / "study")
    page, pdf = tmp_path / "page.html", tmp_path / "page.pdf"
    page.write_text(page_of(runs))
    chromium("--no-pdf-header-footer", f"--print-to-pdf={pdf}", page.as_uri())
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes())) <= 12
    on_paper = page_of(runs).replace("@media print", "@media all")
    page.write_text(on_paper.replace("</body>", f"{WIDE}{CLIPPED}</body>"))
    printed = chromium("--dump-dom", "--window-size=718,2000", page.as_uri())  # A4, in CSS pixels
    (found,) = re.findall(r'<pre id="found">(.*?)</pre>', printed)
    assert json.loads(html.unescape(found)) == []
