"""The page that `intents explore` serves, and the stage `explore` writes as report.html.

`content` collects what its views show as one JSON, `html` puts that into one file with the assets, and `ask`
answers what is typed. The views are in assets/, a script each.
"""
