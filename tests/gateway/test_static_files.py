"""The page and the documentation, as files: without a browser."""

from __future__ import annotations

import httpx


def test_page_and_documentation_need_no_other_origin(http: httpx.Client) -> None:
    for path in ("/", "/docs"):
        page = http.get(path)
        assert page.status_code == 200
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert "https://" not in page.text
        assert "http://" not in page.text
    assert http.get("/static/page.js").headers["content-type"].startswith("text/javascript")
    assert set(http.get("/openapi.json").json()["paths"]) >= {
        "/v1/transcriptions",
        "/v1/events",
        "/api/transcribe",
    }
    assert http.get("/static/../app.py").status_code == 404
    assert http.get("/samples").json() == []
