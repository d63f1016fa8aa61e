from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_bundle.errors import DocumentError, SelectionError
from mlflow_bundle.selection import (
    ModelPattern,
    NamePattern,
    Selection,
    nearest,
    parse_experiments,
    parse_list,
    parse_models,
    parse_renames,
    parse_run_ids,
    parse_stages,
    parse_time_ms,
    quote_name,
    require_matches,
)

# Dense in the characters that mean something, so that they meet often.
NAMES = st.text(min_size=1) | st.text(alphabet="\\,*@/= \t\nal13x\xa0", min_size=1, max_size=12)
HOUR_MS = 3_600_000


def exact(text: str, literal: bool = False) -> NamePattern:
    return NamePattern(text=text, literal=literal)


def prefix(text: str) -> NamePattern:
    return NamePattern(text=text, kind="prefix")


ALL = NamePattern(text="", kind="all")


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (["a,b", "c"], ["a", "b", "c"]),
        ([" a , b\t"], ["a", "b"]),
        (["a,,b,"], ["a", "b"]),
        ([r"a\,b"], ["a,b"]),
        ([r"a\\,b"], ["a\\", "b"]),
        ([r"\ a\ "], [" a "]),
        ([r" \all"], ["all"]),
        (["", " , "], []),
        ([], []),
    ],
)
def test_lists_split_at_plain_commas_only(values: list[str], texts: list[str]) -> None:
    assert [token.text for token in parse_list(values)] == texts


def test_tokens_remember_which_characters_were_escaped() -> None:
    (token,) = parse_list([r" \*x*@\@"])
    assert token.text == "*x*@@"
    assert token.find_active("*") == [2]
    assert token.find_active("@") == [3]


@pytest.mark.parametrize("text", [r"a\b", "a\\", r"sk\learn*"])
def test_a_backslash_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(SelectionError, match="backslash") as caught:
        parse_list([text])
    assert "\\\\" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("sklearn", exact("sklearn")),
        ("sklearn*", prefix("sklearn")),
        ("all", ALL),
        ("*", ALL),
        (r"\all", exact("all", literal=True)),
        (r"\12", exact("12", literal=True)),
        ("12", exact("12")),
        ("All", exact("All")),
        (r"\all*", prefix("all")),
        (r"a\*", exact("a*")),
        (r"a\**", prefix("a*")),
        ("/Users/a@b.org/x/3", exact("/Users/a@b.org/x/3")),
    ],
)
def test_experiment_elements_are_names_prefixes_ids_or_all(text: str, pattern: NamePattern) -> None:
    assert parse_experiments([text]) == (pattern,)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("iris", ModelPattern(name=exact("iris"))),
        ("sk*", ModelPattern(name=prefix("sk"))),
        ("all", ModelPattern(name=ALL)),
        ("iris/3", ModelPattern(name=exact("iris"), version=3)),
        ("sk*/3", ModelPattern(name=prefix("sk"), version=3)),
        ("iris@champion", ModelPattern(name=exact("iris"), alias="champion")),
        ("all@champion", ModelPattern(name=ALL, alias="champion")),
        (r"iris\/3", ModelPattern(name=exact("iris/3"))),
        (r"a\@b", ModelPattern(name=exact("a@b"))),
        (r"a\@b@c", ModelPattern(name=exact("a@b"), alias="c")),
        ("a/b", ModelPattern(name=exact("a/b"))),
    ],
)
def test_model_elements_name_models_versions_and_aliases(text: str, pattern: ModelPattern) -> None:
    assert parse_models([text]) == (pattern,)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a*b", "only at the end"),
        ("**", "only at the end"),
        ("a@b@c", "name@alias"),
        ("a@", "name@alias"),
        ("@b", "name@alias"),
        ("a/3@b", "not both"),
        ("/3", "no name before"),
        ("", "holds no model"),
        (" , ", "holds no model"),
    ],
)
def test_malformed_model_elements_are_refused(text: str, fault: str) -> None:
    with pytest.raises(SelectionError, match=fault):
        parse_models([text])


def test_an_option_not_given_is_an_empty_selection_not_a_fault() -> None:
    assert parse_models([]) == parse_experiments([]) == parse_run_ids([]) == ()


def test_repeated_elements_count_once_in_the_order_given() -> None:
    assert parse_experiments(["b,a", "b"]) == (exact("b"), exact("a"))


@given(name=NAMES, other=NAMES)
def test_a_quoted_name_selects_exactly_that_name(name: str, other: str) -> None:
    (experiment,) = parse_experiments([quote_name(name)])
    assert experiment.kind == "exact"
    assert experiment.matches(name)
    assert experiment.matches(other) == (name == other)
    (model,) = parse_models([quote_name(name)])
    assert model.is_whole_model
    assert model.matches(name)
    assert model.matches(other) == (name == other)


@given(names=st.lists(NAMES, min_size=1, unique=True))
def test_quoted_names_survive_a_list(names: list[str]) -> None:
    patterns = parse_experiments([",".join(map(quote_name, names))])
    assert [pattern.text for pattern in patterns] == names


@pytest.mark.parametrize("name", ["sklearn_iris", "a-b.c", "x/y", "Ünï", "iris/v3"])
def test_ordinary_names_need_no_quoting(name: str) -> None:
    assert quote_name(name) == name


@pytest.mark.parametrize("name", ["12", "5bd3b8a44faf4803989544af5cb4d66e"])
def test_a_quoted_name_that_looks_like_an_id_is_no_id(name: str) -> None:
    (pattern,) = parse_experiments([quote_name(name)])
    assert pattern.matches(name)
    assert not pattern.matches_id(name)


@given(values=st.lists(NAMES, max_size=3))
def test_parsing_any_text_gives_patterns_or_a_selection_error(values: list[str]) -> None:
    for parse in (parse_experiments, parse_models):
        try:
            patterns = parse(values)
        except SelectionError:
            continue
        assert parse(map(str, patterns)) == patterns


def test_run_ids_are_whole_ids() -> None:
    assert parse_run_ids(["ab12,run-1", "ab12"]) == ("ab12", "run-1")
    with pytest.raises(SelectionError, match="not a run id"):
        parse_run_ids(["ab*"])


def test_stages_are_read_in_any_case() -> None:
    assert parse_stages(["production,ARCHIVE", "none,Archived"]) == (
        "Production",
        "Archived",
        "None",
    )
    with pytest.raises(SelectionError, match="not a stage") as caught:
        parse_stages(["Prod"])
    assert "Production, Staging, Archived, None" in caught.value.hint


def test_renames_split_at_the_first_plain_equals_sign() -> None:
    assert parse_renames(["a=b", r"c\=d=e=f"]) == {"a": "b", "c=d": "e=f"}


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (["a"], "OLD=NEW"),
        (["=b"], "OLD=NEW"),
        (["a="], "OLD=NEW"),
        (["a=b", "a=c"], "renamed twice"),
    ],
)
def test_malformed_renames_are_refused(values: list[str], fault: str) -> None:
    with pytest.raises(SelectionError, match=fault):
        parse_renames(values)


NOON = 1_706_702_400_000  # 2024-01-31T12:00:00Z


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-01-31", NOON - 12 * HOUR_MS),
        ("2024-01-31T12:00:00", NOON),
        ("2024-01-31T12:00:00Z", NOON),
        ("2024-01-31 12:00", NOON),
        ("2024-01-31T12:00:00.5", NOON + 500),
        ("2024-01-31T12:00:00.123456789Z", NOON + 123),
        ("2024-01-31T12:00:00+02:00", NOON - 2 * HOUR_MS),
        ("2024-01-31T12:00:00-0130", NOON + 90 * 60_000),
        ("2024-01-31T12:00+02", NOON - 2 * HOUR_MS),
        ("1969-12-31T23:59:59.999", -1),
        (str(NOON), NOON),
        ("0", 0),
    ],
)
def test_times_are_utc_unless_they_carry_an_offset(text: str, moment: int) -> None:
    assert parse_time_ms(text) == moment


@pytest.mark.parametrize(
    "text",
    [
        *["", "yesterday", "-5", "١٢٣", "2024-02-30", "2024-01-31Z"],
        *["2024-01-31T25:00", "2024-01-31T12:00:00+99:00"],
        *["2024", "20240131", "1706702400", "9" * 5000],
    ],
)
def test_what_is_no_time_or_ambiguous_is_refused(text: str) -> None:
    with pytest.raises(SelectionError, match=r"not a time|ambiguous"):
        parse_time_ms(text)


@given(st.datetimes())
def test_every_iso_time_is_read_to_the_millisecond(moment: object) -> None:
    from datetime import datetime, timedelta

    assert isinstance(moment, datetime)
    expected = (moment - datetime(1970, 1, 1)) // timedelta(milliseconds=1)
    assert parse_time_ms(moment.isoformat()) == expected


def test_the_window_holds_its_start_and_not_its_end() -> None:
    window = Selection(since_ms=10, until_ms=20)
    assert [window.matches_window(t) for t in (9, 10, 19, 20, None)] == [
        False,
        True,
        True,
        False,
        False,
    ]
    assert Selection().matches_window(None)


def test_an_experiment_is_selected_by_name_prefix_or_id() -> None:
    selection = Selection(experiments=parse_experiments(["churn,sk*,3"]))
    assert selection.matches_experiment("9", "churn")
    assert selection.matches_experiment("9", "sklearn")
    assert selection.matches_experiment("3", "other")
    assert selection.matches_experiment("9", "3")
    assert not selection.matches_experiment("33", "other")
    assert not selection.matches_experiment("sk9", "other")
    assert Selection.all().matches_experiment("9", "anything")


def test_a_version_is_selected_by_number_alias_and_stage() -> None:
    selection = Selection(models=parse_models(["a/3,b@best,c"]), stages=("Staging", "None"))
    assert selection.matches_version("a", 3)
    assert not selection.matches_version("a", 2)
    assert not selection.matches_version("a", 3, stage="Production")
    assert selection.matches_version("b", 7, aliases=["best"], stage="Staging")
    assert not selection.matches_version("b", 7, aliases=["worst"])
    assert selection.matches_version("c", 1, stage="")
    assert not selection.matches_version("d", 1)


def test_only_everything_without_filters_is_not_partial() -> None:
    assert not Selection.all().is_partial
    assert Selection(everything=True, since_ms=1).is_partial
    assert Selection(models=parse_models(["all"])).is_partial
    assert Selection(export_all_runs=True).is_empty
    assert not Selection.all().is_empty


def selections() -> st.SearchStrategy[Selection]:
    names = st.lists(NAMES.map(quote_name), max_size=3)
    quoted_or_wild = st.lists(
        st.sampled_from(["all", "sk*", "12", r"\12", "iris/3", "i*@best"]), max_size=3
    )
    elements = st.tuples(names, quoted_or_wild).map(lambda pair: pair[0] + pair[1])
    moments = st.none() | st.integers(-(10**14), 10**14)
    return st.builds(
        Selection,
        experiments=names.map(parse_experiments),
        models=elements.map(parse_models),
        run_ids=st.lists(st.sampled_from(["r1", "r2"]), unique=True).map(tuple),
        since_ms=moments,
        until_ms=moments,
        stages=st.lists(st.sampled_from(["Production", "None"]), unique=True).map(tuple),
        export_all_runs=st.booleans(),
        everything=st.booleans(),
    )


@given(selections())
def test_a_selection_survives_json(selection: Selection) -> None:
    import json

    assert Selection.from_json(json.loads(json.dumps(selection.to_json()))) == selection


def test_json_holds_only_what_differs_from_the_default() -> None:
    assert Selection().to_json() == {}
    selection = Selection(models=parse_models([r"sk*,iris/3,\all"]), since_ms=5)
    assert selection.to_json() == {"models": ["sk*", "iris/3", r"\all"], "since_ms": 5}


def test_unknown_json_keys_are_ignored() -> None:
    assert Selection.from_json({"everything": True, "later": 1}) == Selection.all()


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ([], "selection: expected object, got list"),
        ({"models": "a"}, r"selection\.models: expected array of strings"),
        ({"models": [1]}, r"selection\.models: expected array of strings"),
        ({"models": ["a@b@c"]}, r"selection\.models: .*name@alias"),
        ({"since_ms": True}, r"selection\.since_ms: expected int, got bool"),
        ({"since_ms": 1.0}, r"selection\.since_ms: expected int, got float"),
        ({"everything": 1}, r"selection\.everything: expected bool, got int"),
    ],
)
def test_wrong_json_is_refused_with_the_path_of_the_field(document: object, fault: str) -> None:
    with pytest.raises(DocumentError, match=fault):
        Selection.from_json(document)


def test_nearest_ignores_case_and_finds_names_inside_others() -> None:
    names = ["sklearn_iris", "sklearn_wine", "churn", "Churn-v2", "xgboost"]
    assert nearest("CHRUN", names)[0] == "churn"
    assert nearest("sklearn_irs", names)[0] == "sklearn_iris"
    assert nearest("iris", names) == ["sklearn_iris"]
    assert nearest("zzz", names) == []


def test_a_pattern_that_matches_nothing_is_named_with_the_nearest() -> None:
    selection = Selection(
        experiments=parse_experiments(["defalt,9,kers*"]),
        models=parse_models(["churm,iris/9,iris@best,all@none"]),
        run_ids=("run9",),
    )
    with pytest.raises(SelectionError) as caught:
        require_matches(
            selection,
            experiments=[("0", "Default"), ("1", "keras")],
            models={"churn": {1: []}, "iris": {1: ["old"], 2: []}},
            run_ids=["run1"],
            where="server.mlbundle",
        )
    message = caught.value.message
    assert 'no such experiment "defalt"; nearest: Default' in message
    assert 'no such experiment "9"' in message
    assert 'no such experiment "kers*"; nearest: keras' in message
    assert 'no such model "churm"; nearest: churn' in message
    assert 'no such model version "iris/9"; there is: iris/1, iris/2' in message
    assert 'no such model version "iris@best"; there is: iris@old' in message
    assert 'no such model version "all@none"' in message
    assert 'no such run "run9"; nearest: run1' in message
    assert message.endswith("(in server.mlbundle)")
    assert caught.value.exit_code == 2


def test_all_may_match_nothing() -> None:
    selection = Selection(
        experiments=parse_experiments(["all"]), models=parse_models(["all"]), run_ids=()
    )
    require_matches(selection, experiments=[], models={}, run_ids=[])


def test_what_was_not_listed_is_not_missed() -> None:
    require_matches(Selection(models=parse_models(["x"])), experiments=[])


def test_everything_that_matches_passes() -> None:
    selection = Selection(
        experiments=parse_experiments(["1,De*"]), models=parse_models(["iris/2,i*@old"])
    )
    require_matches(
        selection,
        experiments=[("0", "Default"), ("1", "keras")],
        models={"iris": {2: ["old"]}},
    )
