"""The interface of the service, as an OpenAPI document."""

from stages.serving.options import Limits

ERRORS = {
    400: "The body is no such object, or a text is empty or not whole.",
    408: "The body did not come in time.",
    413: "The body, a text or the list of texts is too long.",
    500: "The workers that took up the request died or hung.",
    503: "Too many texts are waiting, or no worker answered in time. Try again in a second.",
}


def _json(description: str, schema: dict) -> dict:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def document(limits: Limits) -> dict:
    """OpenAPI 3.0, with the limits that are in force."""
    text = {
        "type": "string",
        "minLength": 1,
        "maxLength": limits.characters,
        "pattern": r"\S",
        "example": "what is my balance",
    }
    texts = {"type": "array", "items": text, "minItems": 1, "maxItems": limits.texts}
    prediction = _object(label={"type": "string"}, score={"type": "number", "minimum": 0, "maximum": 1})
    predictions = _object(predictions={"type": "array", "items": prediction})
    errors = {
        str(status): _json(description, {"$ref": "#/components/schemas/Error"})
        for status, description in ERRORS.items()
    }
    pids = {"type": "array", "items": {"type": "integer"}}
    health = _object(model={"type": "string"}, processes=pids, workers=pids)
    predict = {
        "summary": "Name the intent of a text, or of several",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "oneOf": [
                            {**_object(text=text), "not": {"required": ["texts"]}},
                            {**_object(texts=texts), "not": {"required": ["text"]}},
                        ]
                    }
                }
            },
        },
        "responses": {
            "200": _json("A prediction, or one for each text.", {"oneOf": [prediction, predictions]}),
            **errors,
        },
    }
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "Intent classifier",
            "version": "1",
            "description": "A label and its probability for each query. A model with a threshold answers a "
            "query that is out of scope with a label of its own.",
        },
        "paths": {
            "/predict": {"post": predict},
            "/health": {
                "get": {
                    "summary": "Whether a worker is ready",
                    "responses": {"200": _json("One is.", health), "503": _json("None is.", health)},
                }
            },
            "/metrics": {
                "get": {
                    "summary": "Counts and times, for Prometheus",
                    "responses": {
                        "200": {
                            "description": "Prometheus's text format.",
                            "content": {"text/plain": {"schema": {"type": "string"}}},
                        }
                    },
                }
            },
        },
        "components": {"schemas": {"Error": _object(error={"type": "string"})}},
    }


def _object(**properties: dict) -> dict:
    return {"type": "object", "required": [*properties], "properties": properties}
