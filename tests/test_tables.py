"Tables of many runs: honest intervals, pairing by question, missing runs named, nothing from data runs."
import json
import math
from statistics import mean, stdev

import pytest

from drivekd.runs.parameters import RunError
from drivekd.runs.report import html_report
from drivekd.runs.runner import project_root
from drivekd.runs.study_report import (
    against,
    claim_table,
    deployment_table,
    power,
    provenance_table,
    read_deployment,
    stand_out,
    study_sections,
    study_tables,
    write_tables,
)
from drivekd.runs.tables import (
    CONTRADICTED,
    HOLDS,
    UNDECIDED,
    UNTESTED,
    Claim,
    as_csv,
    as_latex,
    difference,
    judged,
    keep_runs,
    over_seeds,
    read_claims,
    read_runs,
    score,
    seeds_to_see,
)
from drivekd.workbench.safe import html_text


def made_up(root, name, rights, seed=None, status="ok", params=None, ids=None, notebook="student", metrics=None):
    "A run folder with one planning question for each right or wrong."
    folder = root / name
    folder.mkdir(parents=True)
    seed = int(name.rsplit("-s", 1)[1]) if seed is None else seed
    lines = [{"id": ids[i] if ids else f"q{i}", "capability": "planning", "kind": "actions", "group": f"f{i}", "right": bool(r), "unread": False, "chance": .25, "reply": "<script>alert(1)</script>",
              "loss": 1.5 - r} for i, r in enumerate(rights)]
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "result.json").write_text(json.dumps({"seed": seed, "params": params or {"recipe": "ce", "seed": seed}, "metrics": metrics or {"gaze_distance": {}, "training_seconds": 1.}, "git": None}))
    (folder / "status.json").write_text(json.dumps({"status": status, "pid": 2 ** 22 + 1, "notebook": f"nbs/runs/{notebook}.ipynb"}))
    return folder


def test_the_interval_is_students():
    stats = pytest.importorskip("scipy.stats")
    for n in (2, 3, 5, 8, 11, 21, 31, 61):
        values = [float(i * i % 7) for i in range(n)]
        found, high = over_seeds(values), stats.t.interval(.95, n - 1, mean(values), stats.sem(values))[1]
        assert found.estimate == mean(values) and found.high - mean(values) == pytest.approx(high - mean(values), rel=1e-3)
        assert found.high + found.low == pytest.approx(2 * mean(values))


def test_between_two_known_degrees_the_interval_is_wider_never_narrower():
    stats = pytest.importorskip("scipy.stats")
    for n in range(2, 80):
        values = [float(i * i % 7) for i in range(n)]
        assert over_seeds(values).high >= stats.t.interval(.95, n - 1, mean(values), stats.sem(values))[1] * .9995


def test_one_seed_has_no_interval_and_no_verdict(tmp_path):
    made_up(tmp_path, "ce-s1", [0, 0]), made_up(tmp_path, "agp-s1", [1, 1], params={"recipe": "agp", "seed": 1})
    runs = read_runs([tmp_path])
    assert score(runs.of("agp")).estimate == 100 and math.isnan(score(runs.of("agp")).low)
    assert study_tables(runs, [])[0].rows[0][-1] == "100.0 [one seed]"
    assert judged(Claim("", (("agp", "ce", None),)), runs)[0] == UNTESTED


def test_what_all_seeds_share_cancels_in_a_paired_difference(tmp_path):
    for seed, easy in ((1, 1), (2, 5), (3, 9)):  # seeds differ widely, the gain is one question of ten each time
        made_up(tmp_path, f"ce-s{seed}", ([1] * easy + [0] * (10 - easy)) * 50), made_up(tmp_path, f"agp-s{seed}", ([1] * (easy + 1) + [0] * (9 - easy)) * 50)
    runs = read_runs([tmp_path])
    apart, paired = score(runs.of("agp")), difference(runs.of("ce"), runs.of("agp"))
    assert paired.estimate == pytest.approx(10) and 3 < paired.high - paired.low < 8 and apart.high - apart.low > 100
    assert judged(Claim("", (("agp", "ce", "planning"),)), runs)[0] == HOLDS
    assert judged(Claim("", (("ce", "agp", "planning"),)), runs)[0] == CONTRADICTED
    assert judged(Claim("", (("agp", "ce", "planning"),)), runs, "answer loss")[0] == HOLDS, "a lower loss is a gain"


def test_a_claim_of_two_parts_is_no_stronger_than_its_weaker_one(tmp_path):
    for seed in (1, 2):
        made_up(tmp_path, f"a-s{seed}", [1, 1] * 50), made_up(tmp_path, f"b-s{seed}", [0, 0] * 50), made_up(tmp_path, f"c-s{seed}", ([1, 1] if seed == 1 else [0, 1]) * 50)
    runs = read_runs([tmp_path])
    whole, gains = judged(Claim("", (("a", "b", "planning"), ("a", "c", "planning"))), runs)
    assert whole == UNDECIDED and gains[0].low > 0 > gains[1].low
    assert judged(Claim("", (("a", "b", "planning"), ("a", "missing", "planning"))), runs)[0] == UNTESTED


def test_seeds_that_see_a_difference_of_one_deviation_are_eight():
    values = [-1., 0., 1., 2., 3.]
    assert seeds_to_see(over_seeds(values), 5, stdev(values)) == 8 and seeds_to_see(over_seeds(values), 5, stdev(values) / 2) == 32


def test_a_page_counts_what_stands_out_beside_what_chance_would_bring(tmp_path):
    for seed in (1, 2): made_up(tmp_path, f"a-s{seed}", [1, 1] * 50), made_up(tmp_path, f"b-s{seed}", [0, 0] * 50)
    runs, claims = read_runs([tmp_path]), [Claim("", (("a", "b", "planning"), ("a", "missing", "planning")), published=(2.5, -1))]
    assert stand_out(claims, runs).startswith("2 comparisons; without any effect about 0.1 would exclude zero, and 2 do: a over b, planning, by accuracy: +100")
    assert "Nothing can be compared" in power(claims[:0], runs) and "5 points" in power(claims, runs) and [row[4] for row in claim_table(claims, runs).rows] == ["+2.5", "-1.0"]


def test_runs_on_other_questions_are_not_compared(tmp_path):
    for seed in (1, 2):
        made_up(tmp_path, f"ce-s{seed}", [1, 0]), made_up(tmp_path, f"agp-s{seed}", [1, 0], ids=["q0", "elsewhere"])
    runs = read_runs([tmp_path])
    with pytest.raises(RunError, match="the same questions, found others in agp-s1"): difference(runs.of("ce"), runs.of("agp"))


def test_a_variant_that_sat_for_one_capability_is_compared_in_that_one_and_has_no_average(tmp_path):
    for seed in (1, 2):
        made_up(tmp_path, f"single-s{seed}", [1, 1], params={"recipe": "single", "seed": seed})
        both = made_up(tmp_path, f"ce-s{seed}", [0, 1]) / "answers.jsonl"
        lines = [json.loads(line) for line in both.read_text().splitlines()]
        both.write_text("".join(json.dumps(line) + "\n" for line in [*lines, *({**line, "id": line["id"] + "p", "capability": "perception"} for line in lines)]))
    runs = read_runs([tmp_path])
    assert difference(runs.of("ce"), runs.of("single"), capability="planning").estimate == 50
    assert all(math.isnan(difference(runs.of("ce"), runs.of("single"), capability=c).estimate) for c in ("perception", None))
    rows = {row[0]: row[2:] for row in study_tables(runs, [])[0].rows}
    assert rows["single"][0] == "–" and rows["single"][1].startswith("100.0") and rows["single"][2] == "–" and rows["ce"][2].startswith("50.0")


def test_seeds_that_agree_by_chance_decide_nothing(tmp_path):
    for seed in (1, 2): made_up(tmp_path, f"ce-s{seed}", [1, 0, 0, 0, 0, 0]), made_up(tmp_path, f"agp-s{seed}", [1, 1, 0, 0, 0, 0])
    runs = read_runs([tmp_path])
    assert judged(Claim("", (("agp", "ce", "planning"),)), runs)[0] == UNDECIDED
    assert score(runs.of("ce")).high > 50 and "[0.0 …" in study_tables(runs, [])[0].rows[0][2], "shares end at zero"
    noise = .25 / 100  # of a hundred coins
    assert over_seeds([.5, .5], noise).high - .5 == pytest.approx(over_seeds([.5 - noise ** .5 / 2 ** .5, .5 + noise ** .5 / 2 ** .5]).high - .5)


def test_differences_say_how_many_seeds_they_come_from_and_use_questions_that_both_have(tmp_path):
    for seed in (1, 2, 3): made_up(tmp_path, f"ce-s{seed}", [1, 0])
    for seed in (1, 2): made_up(tmp_path, f"agp-s{seed}", [1, 0])
    lines = [json.loads(line) for line in (tmp_path / "agp-s1" / "answers.jsonl").read_text().splitlines()]
    lines[0]["loss"] = None  # this question is left out on both sides
    (tmp_path / "agp-s1" / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs, claim = read_runs([tmp_path]), Claim("", (("agp", "ce", "planning"),))
    assert difference(runs.of("ce"), runs.of("agp"), "answer loss").estimate == 0
    assert [dict(zip(t.header, t.rows[0]))["pairs"] for t in (against(runs, "ce"), claim_table([claim], runs))] == ["2", "2"]


def test_every_table_that_has_rows_is_on_the_page(tmp_path):
    teaches = {"training_seconds": 1.0, "gaze_distance": {"planning": .5}, "opposition": {"planning": {"cosine": .1, "opposed": .2, "length": .3, "removed": .4}}}
    for seed in (1, 2):
        made_up(tmp_path, f"ce-s{seed}", [1, 0], params={"student": "a", "seed": seed})
        made_up(tmp_path, f"agp-s{seed}", [1, 0], params={"student": "a", "seed": seed}, metrics=teaches)
    runs, claims = read_runs([tmp_path]), [Claim("c", (("agp", "ce", "planning"),))]
    costs = json.loads((project_root() / "data/studies/deployment.json").read_text())["rows"]
    found = study_tables(runs, claims, "ce", costs)
    page = html_report("t", study_sections(runs, found, claims, "ce"), "")
    assert "opposition" in {t.name for t in found} and all(html_text(t.caption) in page for t in found)


def test_an_empty_word_that_is_no_default_is_in_the_command(tmp_path):
    made_up(tmp_path, "agp-s1", [1], params={"recipe": "agp", "reweight": "", "seed": 1})
    assert provenance_table(read_runs([tmp_path])).rows[0][-1] == "drivekd run student -p reweight='' -p seed=1"


def test_every_planned_run_is_accounted_for(tmp_path):
    made_up(tmp_path, "ce-s1", [1]), made_up(tmp_path, "ce-s2", [1], status="failed"), made_up(tmp_path, "ce-s3", [1], status="running")
    (made_up(tmp_path, "ce-s4", [1], notebook="distill") / "answers.jsonl").unlink()
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": [{"name": f"ce-s{n}"} for n in range(1, 6)]}))
    runs = read_runs([tmp_path])
    assert [r.seed for r in runs.ok] == [1] and runs.others.keys() == {f"{tmp_path.name}/ce-s{n}" for n in range(2, 6)}
    why = {name.split("/")[1]: reason for name, reason in runs.others.items()}
    assert why["ce-s2"] == "failed" and why["ce-s3"] == "killed" and "distill.ipynb" in why["ce-s4"] and why["ce-s5"] == "missing"


def test_runs_of_one_name_in_two_sweeps_are_both_accounted_for(tmp_path):
    for sweep in "ab": made_up(tmp_path / sweep, "ce-s1", [1], status="failed")
    assert read_runs([tmp_path / "a", tmp_path / "b"]).others.keys() == {"a/ce-s1", "b/ce-s1"}


def test_a_variant_is_one_set_of_parameters_and_a_seed_one_run(tmp_path):
    made_up(tmp_path / "a", "ce-s1", [1], params={"steps": 3, "seed": 1}), made_up(tmp_path / "a", "ce-s2", [1], params={"steps": 4, "seed": 2})
    with pytest.raises(RunError, match="may differ in the seed only, found another steps in ce-s2"): read_runs([tmp_path / "a"])
    made_up(tmp_path / "b", "ce-s1", [1]), made_up(tmp_path / "c", "ce-s1", [1])
    with pytest.raises(RunError, match="two runs of one seed"): read_runs([tmp_path / "b", tmp_path / "c"])
    with pytest.raises(RunError, match="there is no folder"): read_runs([tmp_path / "d"])


def test_the_page_the_csv_and_the_latex_say_the_same_and_nothing_in_them_runs(tmp_path):
    for seed in (1, 2): made_up(tmp_path, f"<b>x&y_%-s{seed}", [1, 0])
    runs = read_runs([tmp_path])
    claims = [Claim("<img src=x onerror=alert(1)>", (("<b>x&y_%", "none", "planning"),))]
    page = html_report("t", study_sections(runs, study_tables(runs, claims), claims), "")
    assert "<b>x" not in page and "<img src=x" not in page and "&lt;b&gt;x&amp;y_%" in page
    files = {p.name: p.read_text() for p in write_tables(tmp_path, study_tables(runs, claims))}
    assert "50.0 [0.0 … 100.0]" in page.replace("</strong> <small>", " ") and '<b>x&y_%,2,50.0,0.0,100.0' in files["accuracy.csv"]
    assert r"<b>x\&y\_\% & 2" in files["accuracy.tex"] and as_latex(["a"], [["\\"]]).count(r"\textbackslash{}") == 1
    assert claim_table(claims, runs).rows[0][1] == UNTESTED


def test_bounds_are_columns_in_csv_and_columns_of_a_tex_table_fit_their_content():
    header, rows = ["variant", "gain", "verdict"], [["agp", "-2.5 [-6.0 … +1.0]", "undecided " * 6], ["ce", "1.0 [one seed]", "–"], ["kl", "–", "–"]]
    assert as_csv(header, rows).splitlines() == ["variant,gain,\"gain, low\",\"gain, high\",verdict", f"agp,-2.5,-6.0,+1.0,{'undecided ' * 6}", "ce,1.0,,,–", "kl,,,,–"]
    tex = as_latex(header, rows)
    assert r"\begin{tabular}{lrp{6cm}}" in tex and r"$-$2.5 [$-$6.0 \ldots{} +1.0]" in tex and "–" not in tex
    assert as_csv(header, []) == "variant,gain,verdict\n" and "{lll}" in as_latex(header, [])


def test_a_kept_study_gives_the_same_tables_and_holds_no_reply(tmp_path):
    for seed in (1, 2): made_up(tmp_path / "sweep", f"ce-s{seed}", [1, 0, 1]), made_up(tmp_path / "sweep", f"agp-s{seed}", [1, 1, seed - 1], params={"recipe": "agp", "seed": seed})
    made_up(tmp_path / "sweep", "kl-s1", [1], status="failed")
    runs, claims = read_runs([tmp_path / "sweep"]), [Claim("", (("agp", "ce", "planning"),))]
    keep_runs(runs, tmp_path / "new" / "study.json")
    kept = read_runs([tmp_path / "new" / "study.json"])
    assert study_tables(kept, claims, "ce") == study_tables(runs, claims, "ce") and kept.others == runs.others
    assert "alert" not in (tmp_path / "new" / "study.json").read_text()
    for wrong in ("{", "[]", '{"schema": 2}'):
        (tmp_path / "wrong.json").write_text(wrong)
        with pytest.raises(RunError, match="is no study"): read_runs([tmp_path / "wrong.json"])


def test_costs_stand_beside_the_variants_that_started_from_what_was_measured(tmp_path):
    for name, student in (("small", "data/miniature/student/"), ("large", "somewhere/else")): made_up(tmp_path, f"{name}-s1", [1], params={"student": student, "seed": 1})
    (tmp_path / "deploy.json").write_text(deployed := (project_root() / "data/studies/deployment.json").read_text())
    measured = read_deployment(tmp_path / "deploy.json")
    rows = {row[0]: row[1:] for row in deployment_table(read_runs([tmp_path]), measured).rows}
    assert rows["small"][1] == f"{json.loads(deployed)['rows'][0]['parameters'] / 1e6:.2f}" and rows["large"][1:] == ("–",) * 4
    for wrong in ("{}", "[1]", "nothing"):
        (tmp_path / "deploy.json").write_text(wrong)
        with pytest.raises(RunError, match="must hold what drivekd bench deploy --json prints"): read_deployment(tmp_path / "deploy.json")


def test_a_file_without_claims_says_what_it_must_hold(tmp_path):
    (tmp_path / "c.yaml").write_text("claims: [[a, b]]")
    with pytest.raises(RunError, match="must hold `claims`, each with text and parts"): read_claims(tmp_path / "c.yaml")
