from stages.reporting import outliers


def test_a_row_a_file():
    account = {
        "path": "a.yaml", "weight": 2.0, "read": 1200, "train": 1077, "validation": 120,
        "highest_cosine": 0.8275, "dropped": {"in train": ["x", "y"], "near train": ["z"]},
    }  # fmt: skip
    none = {**account, "path": "b.txt", "highest_cosine": None, "dropped": {"in train": [], "near train": []}}
    header, _, first, second = outliers.markdown([account, none]).splitlines()[:4]
    assert header == (
        "| file | weight | lines | for train | for validation | dropped: in train | dropped: near train | "
        "highest cosine |"
    )
    assert first == "| a.yaml | 2 | 1,200 | 1,077 | 120 | 2 | 1 | 0.83 |"
    assert second == "| b.txt | 2 | 1,200 | 1,077 | 120 | 0 | 0 | – |"
