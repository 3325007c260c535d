"""A tab of a real browser that notes whatever is wrong with the page in it. Part of tests/console.py."""

import importlib.resources
import json
import time

from demo import check

SIZES = {1280: 860, 400: 820}
PATIENCE_MS = 60_000
# What a page notes of itself: the policy's refusals, and whatever escapes.
WATCH = """
window.refused = [];
document.addEventListener('securitypolicyviolation', (event) => window.refused.push(event.violatedDirective + ' ' + event.blockedURI));
"""


class Tab:
    """A page of the browser that notes whatever is wrong with it."""

    def __init__(self, browser, zombi, width=1280, scheme="light", script=True):
        self.base, self.errors, self.foreign = f"http://127.0.0.1:{zombi.port}", [], []
        self.context = browser.new_context(viewport={"width": width, "height": SIZES.get(width, 800)}, color_scheme=scheme,
                                           java_script_enabled=script, timezone_id="Europe/Berlin", locale="en-GB")
        self.context.set_default_timeout(PATIENCE_MS)
        if script:
            self.context.add_init_script(WATCH)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.errors.append(dialog.message), dialog.dismiss()))
        self.page.on("request", self.requested)

    def requested(self, request):
        if not request.url.startswith((self.base, "data:")):
            self.foreign.append(request.url)

    def open(self, path):
        response = self.page.goto(self.base + path, wait_until="load")
        check(response.status < 400, f"{path} is there: {response.status}")
        return self.page

    def is_clean(self, what):
        check(not self.errors, f"{what}: no error in the browser's console: {self.errors}")
        check(not self.foreign, f"{what}: no request to anybody else: {self.foreign}")
        refused = self.page.evaluate("window.refused")
        check(not refused, f"{what}: the policy refuses nothing: {refused}")
        check(self.page.evaluate("window.hacked") is None, f"{what}: no payload has run")

    def close(self):
        self.context.close()


def until(page, expression):
    """Waits until it holds. It is asked from outside: the page's own policy lets no text be run as a script."""
    give_up = time.monotonic() + PATIENCE_MS / 1000
    while not page.evaluate(expression):
        check(time.monotonic() < give_up, f"{expression} at {page.url}")
        time.sleep(0.05)


def axe():
    return importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()


def accessible(page, source, what):
    page.evaluate(source)
    found = page.evaluate("""axe.run().then(({violations}) =>
        violations.map(({id, nodes}) => [id, nodes.map((node) => node.html.slice(0, 200))]))""")
    check(not found, f"{what}: axe-core finds nothing: {json.dumps(found, indent=1)}")
