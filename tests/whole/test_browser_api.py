"""What a browser does with the page of the FastAPI example, with htmx and without any script."""

import re
import secrets
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from ..support.browser import Visitor, look_at
from ..support.htmx import load_htmx, serve_htmx
from ..support.matrix import needs_chromium
from ..support.server import Server, environment, free_port

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    port = free_port()
    folder, variables = tmp_path_factory.mktemp("api"), environment(PORT=str(port))
    server = Server(folder, port, variables, module="example_app.api", ready="/openapi.json")
    yield server.wait()
    server.stop()


@pytest.fixture
def ann(chromium: Browser, api: Server, javascript: bool) -> Iterator[Visitor]:
    """A visitor of the example, whose pages are checked afterwards."""
    if javascript:  # now, because the test may be skipped
        load_htmx()
    visitor = Visitor(chromium, api, javascript=javascript, locale="en-US")
    visitor.allowed.append("https://cdn.jsdelivr.net/npm/htmx.org@")
    serve_htmx(visitor.context)
    visitor.go("/")
    visitor.send("Log in", {"Username": "admin", "Password": api.password})
    visitor.see("Hello, admin")
    yield visitor
    assert visitor.leaks() == []
    assert visitor.strangers() == []
    assert visitor.unguarded() == []
    assert visitor.complaints == []
    visitor.context.close()
    if not javascript:
        # The pages are opened with another Content-Security-Policy, which refuses htmx.
        pages = [seen._replace(html=re.sub("<script[^>]*htmx.*?</script>", "", seen.html)) for seen in visitor.pages]
        assert look_at(chromium, {seen.shape: seen for seen in pages}.values()) == []


def order(visitor: Visitor, item: str, quantity: str = "1", voucher: str = "") -> None:
    visitor.page.get_by_label("Item").fill(item)
    visitor.page.get_by_label("Quantity").fill(quantity)
    visitor.page.get_by_label("Voucher").fill(voucher)
    visitor.page.get_by_role("button", name="Order", exact=True).click()


def test_orders_are_added_and_cancelled(ann: Visitor, javascript: bool) -> None:
    item, long, voucher = f"Tea {secrets.token_hex(3)}", "donaudampfschiff" * 6, secrets.token_hex(4).upper()
    ann.page.evaluate("window.isSamePage = true")
    order(ann, item, "3", voucher)
    expect(ann.page.get_by_role("listitem").filter(has_text=item)).to_contain_text(f"3 × {item}")
    expect(ann.page.get_by_label("Item")).to_have_value("")
    order(ann, long)
    expect(ann.page.get_by_role("listitem").filter(has_text=long)).to_have_count(1)
    expect(ann.page.get_by_label("Item")).to_have_value("")
    ann.note()
    order(ann, "Bread", "1", voucher)
    if javascript:
        expect(ann.page.locator("#error")).to_have_text("This voucher was used before.")
        expect(ann.page.get_by_label("Item")).to_have_value("Bread")
    else:
        expect(ann.page.get_by_role("heading", level=1)).to_have_text("Something went wrong")
        expect(ann.page.get_by_text("This voucher was used before.")).to_be_visible()
        ann.note()
        ann.go("/")
    for name in (item, long):
        ann.page.get_by_role("button", name=re.compile(f"Cancel.*{name}")).click()
        expect(ann.page.get_by_role("listitem").filter(has_text=name)).to_have_count(0)
    ann.see("Hello, admin")
    assert bool(ann.page.evaluate("window.isSamePage")) is javascript, "htmx keeps the page"


def test_a_session_that_ended_in_another_tab_leads_to_the_login_page_and_back(ann: Visitor) -> None:
    other = ann.context.new_page()
    other.goto(ann.server.url)
    other.get_by_role("button", name="Log out").click()
    expect(other.get_by_role("heading", level=1)).to_have_text("You are logged out")
    order(ann, "Tea")
    ann.see("Log in")
    assert "next=%2F" in ann.page.url
    ann.send("Log in", {"Username": "admin", "Password": ann.server.password})
    ann.see("Hello, admin")
    assert ann.page.url == f"{ann.server.url}/"
    expect(ann.page.get_by_role("listitem").filter(has_text="Tea")).to_have_count(0)
