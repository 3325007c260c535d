"""What a page of somebody else can make a browser do to Zombi: nothing. Part of tests/console.py."""

import http.server
import threading
import time

from demo import check, say

# Names that lead to this machine, as those of an attacker do who answers for them: see `ARGUMENTS`.
ELSEWHERE, REBOUND = "elsewhere.example.com", "rebound.example.com"
ARGUMENTS = [
    f"--host-resolver-rules=MAP {ELSEWHERE} 127.0.0.1, MAP {REBOUND} 127.0.0.1",
    "--no-proxy-server",
    "--disable-features=HttpsUpgrades,HttpsFirstBalancedModeAutoEnable",
]
PATIENCE_SECS = 60
# A body without a type needs no preflight, and a record is JSON whatever its type is.
FORGE = """([url, method]) => fetch(url, {method, mode: 'no-cors', credentials: 'include',
    body: new Blob(['{"payload":"forged"}'])}).then((response) => response.type)"""
READ = "([url, options]) => fetch(url, options).then(async (response) => [response.status, await response.text()])"


class Blank(http.server.BaseHTTPRequestHandler):
    """A page of somebody else, that frames what its query names."""

    def do_GET(self):
        framed = self.path.partition("?")[2]
        frame = f"<iframe src='{framed}'></iframe>" if framed else ""
        body = f"<!doctype html><title>elsewhere</title>{frame}"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass


def foreign(browser, zombi):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Blank)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    elsewhere = f"http://{ELSEWHERE}:{server.server_address[1]}"
    # As people's browsers, which say which language they want.
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    try:
        forged(page, elsewhere, zombi)
        framed(page, elsewhere, zombi)
    finally:
        context.close()
        server.shutdown()
    rebound(browser, zombi)


def forged(page, elsewhere, zombi):
    """A POST that needs no preflight leaves the browser, and writes nothing."""
    page.goto(elsewhere)
    for host in (f"127.0.0.1:{zombi.port}", f"{REBOUND}:{zombi.port}"):
        for path in ("/tables/forged", "/tables/forged/bulk", "/flush", "/tables/orders/flush", "/consumers/billing/commit"):
            kind = page.evaluate(FORGE, [f"http://{host}{path}", "POST"])
            check(kind == "opaque", f"POST {path} at {host} was sent and answered: {kind}")
    status, problem = zombi.request("GET", "/tables/forged")
    check(status == 404, f"a page of elsewhere writes nothing: {status} {problem}")
    say("forged    a POST from another origin writes nothing")


def framed(page, elsewhere, zombi):
    """What is framed is the browser's own error page."""
    for path in ("/docs/", "/docs/errors", "/console", "/console/sign-in"):
        page.goto(f"{elsewhere}/?http://127.0.0.1:{zombi.port}{path}", wait_until="load")
        give_up = time.monotonic() + PATIENCE_SECS
        while not any(frame.url.startswith("chrome-error:") for frame in page.frames[1:]):
            check(time.monotonic() < give_up, f"{path} cannot be framed: {[frame.url for frame in page.frames]}")
            page.wait_for_timeout(50)  # what the browser has to say meanwhile is heard
    say("framed    neither /docs nor the console")


def rebound(browser, zombi):
    """A name of somebody else's that leads here all of a sudden: to the browser both are one origin."""
    # Only probes answer to such a name, and theirs is the page that the attacker's would be: without our policy, of course.
    context = browser.new_context(locale="en-GB", bypass_csp=True)
    page = context.new_page()
    try:
        origin = f"http://{REBOUND}:{zombi.port}"
        response = page.goto(f"{origin}/tables/orders")
        check(response.status == 421, f"the name is not ours: {response.status}")
        response = page.goto(f"{origin}/livez")
        check(response.status == 200, f"a probe is asked for no name: {response.status}")
        for path in ("/tables", "/tables/orders", "/stats", "/settings", "/console", "/metrics"):
            status, text = page.evaluate(READ, [path, {}])
            check(status == 421 and "customer" not in text, f"GET {path} by the page's own name: {status} {text[:200]}")
        write = {"method": "POST", "body": '{"payload":"rebound"}'}
        status, text = page.evaluate(READ, ["/tables/rebound", write])
        check(status == 421, f"POST by the page's own name: {status} {text[:200]}")
    finally:
        context.close()
    status, problem = zombi.request("GET", "/tables/rebound")
    check(status == 404, f"nothing was written: {status} {problem}")
    say("rebound   a foreign name that leads here reads and writes nothing")
