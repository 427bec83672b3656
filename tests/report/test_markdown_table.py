"""Tables in Markdown: columns of texts and numbers, and names that contain a bar."""

from __future__ import annotations

from made_up import summary

from feddat.report import method_table, tables
from feddat.report.markdown_table import TEXTS, markdown_table


def test_names_are_left_and_numbers_right() -> None:
    assert markdown_table(["a", "b"], [["x", "1"], ["y", "2"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |\n| y | 2 |\n"
    assert markdown_table(["a", "b"], [], [TEXTS, TEXTS]) == "| a | b |\n| --- | --- |\n"


def test_a_bar_in_a_name_opens_no_column() -> None:
    run = summary("feddat") | {"title": "ours|theirs", "clients": {"a|b": {"score": 1.0}, "c": {"score": 2.0}}}
    tuning = {"scores": {"x|y": {"k=a|b": 1.0}}, "best": {"x|y": {"k": "a|b"}}}
    for text, columns in (
        (tables.to_markdown(tables.score_table([run])), 2),
        (method_table.to_markdown(method_table.method_table([run])), 6),
        (method_table.tuning_markdown(tuning), 2),
    ):
        assert "\\|" in text
        assert {line.replace("\\|", "").count("|") for line in text.splitlines()} == {columns + 1}
