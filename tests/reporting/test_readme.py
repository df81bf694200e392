import re

from stages.reporting import readme

BEST = {"parent": "small", "parameters": {"objective": "fastest", "tolerance": 0.02}}


def test_every_picture_and_table_is_shown():
    text = readme.write("sample", BEST, {"Results": "| a |", "Accuracy": "| b |"})
    assert "**small**" in text and "at most 2 points below" in text
    assert re.findall(r"^## (.+)$", text, re.M)[:2] == ["Results", "Accuracy"]
    assert len(re.findall(r"\]\(pictures/\w+\.png\)", text)) == 9
    assert "| a |" in text.split("## Accuracy")[0]
