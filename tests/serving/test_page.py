"""What the service shows a person; tests/page/test_browser.py opens it in a browser."""

import http.client
import json

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from stages.core.atomic import write_json
from stages.serving import openapi, page, soak
from stages.serving.options import Limits


@pytest.fixture
def client(exported):
    return TestClient(Starlette(routes=page.routes(exported / "student-ort", Limits())))


def test_pages_load_from_the_service_alone(client):
    for path in ("/", "/docs"):
        answer = client.get(path)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert "://" not in answer.text
    for name in ("swagger-ui.css", "swagger-ui-bundle.js"):
        assert f'"docs/{name}"' in client.get("/docs").text
        assert len(client.get(f"/docs/{name}").content) > 100_000


def test_the_page_knows_the_model_and_its_out_of_scope_label(exported, models):
    assert "<h1>student-ort</h1>" in page.ask(models / "student-ort")
    assert "const outOfScope = null;" in page.ask(models / "student-ort")
    threshold = {"out_of_scope": 1, "score": "energy", "value": 0.5}
    write_json(models / "student-ort/calibration.json", {"temperature": 1.0, "threshold": threshold})
    assert 'const outOfScope = "oos";' in page.ask(models / "student-ort")


def test_the_interface_is_the_services(client):
    document = client.get("/openapi.json").json()
    assert document == json.loads(json.dumps(openapi.document(Limits())))
    methods = {path: [*operations] for path, operations in document["paths"].items()}
    assert methods == {"/predict": ["post"], "/health": ["get"], "/metrics": ["get"]}
    body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    one, several = (kind["properties"] for kind in body["oneOf"])
    assert one["text"]["maxLength"] == Limits.characters and several["texts"]["maxItems"] == Limits.texts


@pytest.mark.parametrize("options", [[], ["--no-page"]], ids=["page", "no page"])
def test_no_page_serves_neither(exported, options):
    statuses = []
    with soak.service(exported / "student-ort", *options) as port:
        for path in ("/", "/docs", "/docs/swagger-ui.css", "/openapi.json", "/health"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", path)
            statuses.append(connection.getresponse().status)
            connection.close()
    assert statuses == ([404] * 4 if options else [200] * 4) + [200]
