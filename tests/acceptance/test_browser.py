"""The pages in a real browser, as the engineer on duty meets them: signed in, by keyboard, on a laptop's screen."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from adin.models import registry
from adin.settings import ROOT
from adin.stack import control
from playwright.sync_api import Page, sync_playwright
from waiting import until

PROBLEM = "flights_delay"
LAPTOP = {"width": 1366, "height": 768}


@pytest.fixture(scope="module")
def page(line) -> Iterator[Page]:
    """A browser signed in to Airflow; whatever it asks of other hosts, or complains of, is in ``page.trouble``."""
    sha256 = json.loads((ROOT / "deploy" / "local" / "artifacts.json").read_text())["browser"]["sha256"]
    folder = Path(os.environ.get("ADIN_CACHE", Path.home() / ".cache" / "adin")) / "browser" / sha256[:16]
    found = {**os.environ, "LD_LIBRARY_PATH": f"{folder}/lib", "FONTCONFIG_FILE": f"{folder}/fonts.conf"}
    url, user, password = control.airflow_login()
    with sync_playwright() as playwright:
        # everything it loads is ours; a sandbox of its own needs rights a container does not have
        options = ["--no-sandbox", "--no-zygote"]
        browser = playwright.chromium.launch(executable_path=folder / "chromium", args=options, env=found)
        opened = browser.new_page(viewport=LAPTOP, base_url=url)
        opened.trouble = []
        opened.on("pageerror", lambda error: opened.trouble.append(str(error)))
        opened.on("request", lambda asked: asked.url.startswith((url, "data:")) or opened.trouble.append(asked.url))
        opened.goto("/")
        opened.fill("input[name=username]", user)
        opened.fill("input[name=password]", password)
        opened.click("button[type=submit]")
        opened.get_by_text("Active Dags").wait_for()
        yield opened
        browser.close()


@pytest.mark.flow(16, 17)
def test_the_menu_of_airflow_leads_to_the_models_page(page):
    page.get_by_text("Browse", exact=True).click()
    page.get_by_text("Models", exact=True).click()
    shown = page.frame_locator("iframe").get_by_role("link", name=PROBLEM)
    shown.wait_for()
    assert shown.is_visible()


@pytest.mark.flow(16, 17)
@pytest.mark.parametrize(
    "path",
    [
        "models", "models/{p}", "models/{p}/versions/1", "models/{p}/compare?v=1&v=1", "models/{p}/rollback?to=1",
        "datasets", "drift", "drift/{p}", "status",
    ],
)  # fmt: skip
def test_a_page_fits_a_laptops_screen_and_asks_nobody_else(page, path):
    page.trouble.clear()
    page.goto(f"/adin/{path.format(p=PROBLEM)}")
    assert page.locator("h1").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= LAPTOP["width"]
    assert page.trouble == []


@pytest.mark.flow(19)
def test_training_is_stopped_and_resumed_by_keyboard_alone(page):
    page.goto(f"/adin/models/{PROBLEM}")

    def press(button: str) -> None:
        page.get_by_label("Reason").focus()
        page.keyboard.type("by keyboard")
        for _ in range(6):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent") == button:
                break
        with page.expect_navigation():
            page.keyboard.press("Enter")

    press("Stop training")
    assert registry().state(PROBLEM).mode == "stopped"
    press("Resume training")
    assert registry().state(PROBLEM).mode == "auto_deploy"


@pytest.mark.flow(16)
def test_the_evidence_shows_its_plots_within_the_page_and_leads_to_the_data(page):
    page.goto(f"/adin/models/{PROBLEM}/versions/1")
    plots = page.frame_locator("iframe.report").locator("svg")
    plots.first.wait_for()
    assert plots.first.is_visible()
    commit = registry().version(PROBLEM, 1).manifest.dataset
    page.locator(f"a[href$='/datasets/{PROBLEM}/{commit}']").first.click()
    assert page.get_by_text("flights.outcomes").first.is_visible()


@pytest.mark.flow(18, 21)
def test_a_rollback_is_planned_started_and_taken_back(page):
    page.goto(f"/adin/models/{PROBLEM}")
    page.get_by_label("Roll back to").fill("1")
    page.get_by_role("button", name="Show the plan").click()
    assert page.get_by_text("yes, and its features are online").is_visible()
    page.get_by_label("Reason").fill("tried in the browser")
    with page.expect_navigation():
        page.get_by_role("button", name="Roll back to version 1").click()
    until(lambda: registry().state(PROBLEM).frozen and registry().state(PROBLEM).mode == "train_only", seconds=180)
    page.goto(f"/adin/models/{PROBLEM}")
    page.get_by_label("Reason").fill("it was a trial")
    with page.expect_navigation():
        page.get_by_role("button", name="Lift the pin").click()
    state = registry().state(PROBLEM)
    assert (state.champion, state.served, state.frozen, state.mode) == (1, 1, False, "auto_deploy")
    assert "tried in the browser" in page.locator("main").inner_text()


@pytest.mark.flow(22)
def test_the_form_of_a_training_run_shows_its_fields(page):
    page.goto(f"/dags/train__{PROBLEM}")
    page.get_by_role("button", name="Trigger").first.click()
    page.get_by_text("Train again").wait_for()
    assert page.get_by_text("Even if nothing changed since the last time.").is_visible()
