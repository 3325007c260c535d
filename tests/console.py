#!/usr/bin/env python3
"""Tries the console in a real Chromium, on the real binary.

    tests/console.py ZOMBI S3 OUT

ZOMBI and S3 are the two binaries (`make console-check` builds and passes them), OUT is where screenshots go. On every page, in
both colour schemes and two widths: no error in the browser's console, no request to anybody else, nothing that the page's own
policy refuses, nothing for axe-core to find, nothing wider than the window. Then: the keyboard alone, a reload that keeps the
state, hostile payloads, a live list under 20,000 events, pages without a script, signing in and out, moving a consumer group; and
what pages of somebody else can do (foreign.py).
Needs Chromium (Debian: chromium), without which it says so and checks nothing, and the packages of tests/requirements.txt in the
Python that runs it.
"""

import base64
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

from demo import S3, Zombi, check, say
from foreign import ARGUMENTS, foreign
from tab import PATIENCE_MS, SIZES, Tab, accessible, axe, until

NAMES = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"]
SCHEMES = ["light", "dark"]
ROWS = 500  # of a live list: console.js
LONG = "a-name-that-is-as-long-as-a-name-may-be." + "x" * 88
EVIL = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"
LIVE = "document.querySelector('.live-status').textContent === 'Following'"


def main():
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if not chromium:
        say("console   SKIPPED: this needs Chromium (Debian: chromium)")
        return
    from playwright.sync_api import sync_playwright

    zombi_binary, s3_binary, out = sys.argv[1:4]
    os.makedirs(out, exist_ok=True)
    for old in glob.glob(os.path.join(out, "*.png")):
        os.remove(old)
    with tempfile.TemporaryDirectory(prefix="zombi-console-") as directory, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *ARGUMENTS])
        s3 = S3(s3_binary, os.path.join(directory, "bucket"))
        settings = {"console.writes": "true", "flush.interval_secs": "3600", "hot.keep_secs": "3600"}
        zombi = Zombi(zombi_binary, os.path.join(directory, "volume"), s3.endpoint, settings)
        secured = Zombi(zombi_binary, os.path.join(directory, "secured"), s3.endpoint, identity(zombi_binary, directory))
        try:
            busy(browser, zombi, out)
            fill(zombi)
            pages(browser, zombi, out)
            find(browser, zombi)
            keyboard(browser, zombi)
            state(browser, zombi)
            hostile(browser, zombi)
            without_script(browser, zombi)
            move(browser, zombi)
            live(browser, zombi)
            unanswered(browser, zombi)
            sign_in(browser, secured, directory, out)
            foreign(browser, zombi)
        finally:
            zombi.kill()
            secured.kill()
            s3.stop()
            browser.close()
    say(f"screenshots are in {out}")


def identity(binary, directory):
    """Settings of a Zombi that lets in only whom its files name, and those files. The token is kept in `token`."""
    made = subprocess.run([binary, "token", "new", "oncall"], capture_output=True, text=True, check=True)
    token, line = made.stdout.splitlines()[:2]
    policy = {"version": 1, "bindings": [{"subjects": ["token:oncall"], "role": "operator", "tables": ["*"], "groups": ["*"]}]}
    files = {"token": token, "tokens.yaml": f"version: 1\ntokens:\n{line}\n", "policy.yaml": json.dumps(policy)}
    for name, text in files.items():
        with open(os.path.join(directory, name), "w") as file:
            file.write(text)
    return {"s3.bucket": "secured", "auth.mode": "required", "auth.policy_file": os.path.join(directory, "policy.yaml"),
            "auth.tokens_file": os.path.join(directory, "tokens.yaml")}


def send(zombi, path, body, headers=None):
    status, answer = zombi.request("POST", path, body=body, headers=headers)
    check(status < 300, f"POST {path}: {status} {answer}")
    return answer


def order(number, timestamp_ms):
    payload = {"order": number, "customer": f"c-{number % 7}", "total": round(number * 1.17, 2),
               "items": [{"sku": f"s-{number % 11}", "count": number % 3 + 1}]}
    headers = {"type": ["order.placed", "order.paid", "order.shipped"][number % 3]}
    return {"payload": payload, "key": payload["customer"], "partition": number % 4, "timestamp_ms": timestamp_ms, "headers": headers}


def fill(zombi):
    """Tables of several kinds: with keys and types over partitions, partly in S3; hostile; with a long name; of bytes."""
    now = int(time.time() * 1000)
    records = [order(number, now - (1200 - number) * 60_000) for number in range(1200)]
    send(zombi, "/tables/orders/bulk", {"records": records[:900]})
    check(zombi.request("POST", "/flush")[0] == 200, "a flush")
    send(zombi, "/tables/orders/bulk", {"records": records[900:]})
    evil = {"payload": {EVIL: [EVIL, 12345678901234567890, None, True]}, "key": EVIL, "headers": {"type": EVIL, EVIL: EVIL}}
    every_byte = base64.b64encode(bytes(range(256))).decode()
    send(zombi, "/tables/hostile/bulk", {"records": [evil, {"payload": EVIL}, {"payload_base64": every_byte}]})
    send(zombi, f"/tables/{LONG}", {"payload": {"long": "x" * 3000}, "key": "k" * 1000})
    send(zombi, "/tables/watched", {"payload": 0})
    commits = [{"table": "orders", "partition": partition, "offset": 100 * partition} for partition in range(3)]
    send(zombi, "/consumers/billing/commit", {"commits": commits})
    send(zombi, "/consumers/search-index/commit", {"commits": [{"table": "orders", "partition": 0, "offset": 300}]})
    send(zombi, f"/consumers/{LONG}/commit", {"commits": [{"table": LONG, "partition": 0, "offset": 1}]})


def pages(browser, zombi, out):
    source, seen = axe(), 0
    addresses = {
        "overview": "/", "tables": "/console/tables", "table": "/console/tables/orders", "events": "/console/events?table=orders",
        "choose": "/console/events", "filtered": "/console/events?table=orders&key=c-3&type=order.*&since=-20h",
        "none": "/console/events?table=orders&key=nobody",
        "event": "/console/event?table=orders&partition=1&offset=7", "bytes": "/console/event?table=hostile&partition=0&offset=2",
        "hostile": "/console/events?table=hostile", "long": f"/console/tables/{LONG}", "consumers": "/console/consumers",
        "group": "/console/consumers/billing", "preview": "/console/consumers/billing/reset?table=orders&to=time&value=-2h",
        "health": "/console/health", "settings": "/console/health?all=1", "live": "/console/events?table=orders&live=1",
    }
    for width in SIZES:
        for scheme in SCHEMES:
            for name, path in addresses.items():
                tab = Tab(browser, zombi, width, scheme)
                page = tab.open(path)
                what = f"{name} at {width}, {scheme}"
                if name == "overview":
                    page.wait_for_selector(".chart canvas")
                    time.sleep(5 if width == 1280 else 1)
                if name == "live":
                    page.wait_for_selector(".event .summary")
                if name in ("events", "hostile"):
                    page.locator("details > summary").first.click()
                wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                check(wide <= 0, f"{what}: nothing is wider than the window (by {wide})")
                accessible(page, source, what)
                page.screenshot(path=os.path.join(out, f"{name}-{width}-{scheme}.png"), full_page=True)
                tab.is_clean(what)
                tab.close()
                seen += 1
    say(f"pages     {seen} views in {len(SIZES)} widths and {len(SCHEMES)} schemes; axe-core finds nothing")


def busy(browser, zombi, out):
    """The overview while events come in: what its graphs show. The README has this picture."""
    tables = {"carts": 5, "payments": 3, "shipments": 1}
    before = int(time.time() * 1000) - 3_600_000
    for table, many in tables.items():
        for turn in range(many):
            records = [order(1000 * turn + place, before + 3600 * place) for place in range(1000)]
            send(zombi, f"/tables/{table}/bulk", {"records": records})
    check(zombi.request("POST", "/flush")[0] == 200, "a flush")
    tab = Tab(browser, zombi)
    page = tab.open("/")
    page.wait_for_selector(".chart canvas")
    number, give_up = 0, time.monotonic() + 2 * PATIENCE_MS / 1000
    # Numbers come every two seconds, metrics every ten; p99 needs two rounds of them.
    for shown in ("document.querySelector('[data-live=rate]').textContent !== '0'",
                  "document.querySelector('[data-live=p99-minute]').textContent.endsWith('s')"):
        began = time.monotonic()
        while not page.evaluate(shown) or time.monotonic() < began + 15:
            check(time.monotonic() < give_up, f"the overview shows what is appended: {shown}")
            for table, many in tables.items():
                records = [order(place, int(time.time() * 1000)) for place in range(many + number % 7)]
                send(zombi, f"/tables/{table}/bulk", {"records": records})
            number += 1
            time.sleep(0.1)
        check(zombi.request("POST", "/flush")[0] == 200, "a flush")
    check("3 tables, 12 partitions" in page.inner_text(".totals"), "what there is in all")
    until(page, "document.querySelector('[data-live=flushed]').textContent.endsWith(' ago')")
    page.screenshot(path=os.path.join(out, "busy-1280-light.png"), full_page=True)
    send(zombi, "/tables/a-new-one/bulk", {"records": [order(1, int(time.time() * 1000))]})
    until(page, "[...document.querySelectorAll('[data-tables] th a')].some((link) => link.textContent === 'a-new-one')")
    check(page.get_by_label("Events of a-new-one").get_attribute("href").endswith("table=a-new-one"), "a new row leads to its events")
    check(page.get_by_label("Events of a-new-one").is_visible(), "a new row")
    tab.is_clean("a busy overview")
    tab.close()
    say("busy      graphs of what is appended")


def find(browser, zombi):
    """An event is found by its time, and by its partition and offset, with nothing else filled in."""
    tab = Tab(browser, zombi)
    first = zombi.request("GET", "/tables/orders?partition=1&offset=7&limit=1")[1]["records"][0]
    page = tab.open("/console/events?table=orders")
    for fields in ({"since": str(first["timestamp_ms"])}, {"partition": "1", "offset": "7"}):
        for name, value in fields.items():
            page.fill(f"#{name}", value)
        page.click("form.filters button[type=submit]")
        page.wait_for_url(lambda url: all(f"{name}={value}" in url for name, value in fields.items()))
        place = page.locator(".event .place").first.inner_text()
        check(place == "1:7", f"the event that was asked for is the first: {place} for {fields}")
        page.click("form.filters a:text-is('Clear')")
        page.wait_for_url("**/console/events?table=orders")
    tab.is_clean("a search")
    tab.close()
    say("find      an event by its time, and by its place")


def keyboard(browser, zombi):
    tab = Tab(browser, zombi)
    page = tab.open("/console")
    for key, path in (("t", "/tables"), ("e", "/events"), ("c", "/consumers"), ("h", "/health"), ("o", "")):
        page.keyboard.press("g")
        page.keyboard.press(key)
        page.wait_for_url(f"{tab.base}/console{path}")
    page.keyboard.press("g")
    page.keyboard.press("t")
    page.wait_for_url(tab.base + "/console/tables")
    page.keyboard.press("/")
    check(page.evaluate("document.activeElement.name") == "name", "/ leads to the search")
    page = tab.open("/console")
    page.keyboard.press("/")
    page.wait_for_url(tab.base + "/console/tables")
    page.keyboard.press("/")
    page.keyboard.type("orders")
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/tables?name=orders")
    # Every stop of the tabulator can be seen.
    stops = []
    for _ in range(40):
        page.keyboard.press("Tab")
        stop = page.evaluate("""() => {
            const at = document.activeElement, style = getComputedStyle(at);
            return at === document.body ? null : [at.outerHTML.slice(0, 80), style.outlineStyle, parseFloat(style.outlineWidth)];
        }""")
        if stop is None:
            break
        stops.append(stop)
    check(len(stops) > 8, f"the tabulator stops at all that can be used: {stops}")
    check(all(style != "none" and width > 0 for _, style, width in stops), f"each stop can be seen: {stops}")
    # An event is opened and its own page found without a mouse.
    tab.open("/console/events?table=orders&partition=2&order=oldest")
    page.locator("details > summary").first.focus()
    page.keyboard.press("Enter")
    page.locator("details[open] a", has_text="This event alone").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/console/event?table=orders&partition=2&offset=0")
    tab.is_clean("the keyboard")
    tab.close()
    say(f"keyboard  every place, {len(stops)} stops in sight")


def state(browser, zombi):
    """What is asked for stands in the address: a reload shows the same."""
    tab = Tab(browser, zombi)
    page = tab.open("/console/events?table=orders")
    page.fill("#key", "c-3")
    page.fill("#type", "order.paid")
    page.select_option("#order", "oldest")
    page.click("form.filters button[type=submit]")
    page.wait_for_url("**key=c-3**")
    before = page.locator(".event .place").all_inner_texts()
    check(before, "events are found by key and type")
    page.reload()
    check((page.input_value("#key"), page.input_value("#order")) == ("c-3", "oldest"), "a reload keeps the filters")
    check(page.locator(".event .place").all_inner_texts() == before, "and what they find")
    page.click("[data-live-toggle]")
    until(page, LIVE)
    check("live=1" in page.url and "key=c-3" in page.url, f"the address says that it is live: {page.url}")
    foot = page.inner_text(".foot")
    check(page.url in foot and "text/event-stream" in foot, f"so does the foot: {foot}")
    check(not page.locator("nav.pages").is_visible(), "there are no pages of what is live")
    page.reload()
    until(page, LIVE)
    page.keyboard.press("p")
    check(page.inner_text(".live-status") == "Paused", "p pauses")
    page.keyboard.press("p")
    until(page, LIVE)
    local = page.locator("time .local").first.inner_text()
    check(local.strip().endswith("local"), f"times are local, too: {local}")
    tab.is_clean("the state")
    tab.close()
    say("state     kept by the address, live too")


def hostile(browser, zombi):
    tab = Tab(browser, zombi)
    one = "/console/event?table=hostile&partition=0&offset="
    for path in ("/console/events?table=hostile", "/console/events?table=hostile&live=1", f"{one}0", f"{one}1"):
        page = tab.open(path)
        until(page, "document.body.innerText.includes('<script>window.hacked=1</script>')")
        for summary in page.locator("details > summary").all():
            if summary.is_visible():
                summary.click()
        check(page.locator("main img, main script").count() == 0, f"{path}: a payload is text")
        check("offset=" in path or "00 01 02 03 04" in page.inner_text("#events"), f"{path}: bytes are hexadecimal, live too")
        tab.is_clean(path)
    page = tab.open(f"{one}0")
    check("12345678901234567890" in page.inner_text("main"), "numbers stay what they are")
    tab.close()
    say("hostile   payloads are text, in lists, trees and live")


def without_script(browser, zombi):
    tab = Tab(browser, zombi, script=False)
    page = tab.open("/console/events?table=orders")
    check(page.locator(".event").count() == 50, "events are there without a script")
    page.fill("#key", "c-5")
    page.click("form.filters button[type=submit]")
    page.wait_for_url("**key=c-5**")
    check(page.locator(".event").count() == 50, "and can be filtered")
    check(not page.locator("[data-live-toggle]").is_visible(), "what needs a script is not offered")
    page.click("nav.pages a[rel=next]")
    page.wait_for_url("**cursor=**")
    check(page.locator(".event").count() > 0, "and there is a next page")
    for path in ("/", "/console/tables/orders", "/console/health", "/console/consumers/billing"):
        tab.open(path)
    for to, fields in (("earliest", [False, False]), ("time", [True, False]), ("offset", [True, True])):
        page.locator("select[name=to]").first.select_option(to)
        shown = [page.locator(f"input[name={name}]").first.is_visible() for name in ("value", "partition")]
        check(shown == fields, f"a form asks for what counts: {to} {shown}")
    check(not tab.errors and not tab.foreign, f"without a script: {tab.errors} {tab.foreign}")
    tab.close()
    say("no script all pages work but for what is live")


def move(browser, zombi):
    tab = Tab(browser, zombi)
    page = tab.open("/console/consumers")
    page.click("th a:text-is('search-index')")
    page.wait_for_url("**/console/consumers/search-index")
    check("never committed" in page.inner_text("main"), "partitions that were never committed are shown")
    page.select_option("select[name=to]", "latest")
    page.click("text=Preview")
    page.wait_for_url("**/reset?**")
    check("3 of 4 partitions would move" in page.inner_text("main"), page.inner_text("main"))
    check("dry_run" in page.inner_text(".foot"), "the command at the foot only asks")
    page.click("text=Move the group now")
    page.wait_for_url("**/console/consumers/search-index?moved=orders")
    status, group = zombi.request("GET", "/consumers/search-index")
    check(status == 200 and group["lag"] == 0, f"the group has moved: {group}")
    tab.is_clean("a move")
    tab.close()
    say("move      a consumer group, with its preview")


def live(browser, zombi):
    """A live list does not grow, neither in the page nor in the browser's memory."""
    tab = Tab(browser, zombi)
    page = tab.open("/console/events?table=watched&live=1")
    until(page, LIVE)
    session = tab.context.new_cdp_session(page)
    used = []
    for turn in range(1, 3):
        for begin in range(0, 10_000, 1000):
            payloads = [{"turn": turn, "number": begin + number} for number in range(1000)]
            send(zombi, "/tables/watched/bulk", {"records": [{"payload": payload} for payload in payloads]})
        until(page, f"document.querySelector('#count').textContent.replaceAll(',', '') === '{turn * 10_000 + 1} events'")
        rows = page.locator("#events > li").count()
        check(rows <= ROWS, f"at most {ROWS} rows are kept: {rows}")
        check('"number":9999' in page.locator("#events > li").first.inner_text().replace(" ", ""), "the newest is on top")
        session.send("HeapProfiler.collectGarbage")
        used.append(session.send("Runtime.getHeapUsage")["usedSize"])
    check(used[1] < used[0] * 1.3 + (4 << 20), f"memory does not grow: {used}")
    tab.is_clean("a live list")
    tab.close()
    say(f"live      20,000 events, {ROWS} rows, {used[1] >> 20} MiB used")


def unanswered(browser, zombi):
    """Numbers that are old say so, and no longer than they are."""
    tab = Tab(browser, zombi)
    page = tab.open("/")
    page.wait_for_selector(".chart canvas")
    said = "document.querySelector('[data-verdict]').textContent.includes('No answer from the server; the numbers are from before')"
    asked = re.compile("/console/(api/|numbers)")
    page.route(asked, lambda route: route.abort())
    until(page, said)
    page.unroute(asked)
    until(page, f"!{said}")
    tab.close()
    say("no answer is said on the overview")


def answered_late(route):
    answer = route.fetch(max_redirects=0)
    time.sleep(3)  # the overview asks every two seconds
    route.fulfill(response=answer)


def sign_in(browser, zombi, directory, out):
    with open(os.path.join(directory, "token")) as file:
        token = file.read().strip()
    headers = {"Authorization": f"Bearer {token}"}
    send(zombi, "/tables/orders", {"payload": {"secret": "kept"}}, headers)
    for width in SIZES:
        for scheme in SCHEMES:
            tab = Tab(browser, zombi, width, scheme)
            page = tab.open("/console/events?table=orders")
            check(page.url.startswith(tab.base + "/console/sign-in"), f"whoever is not known signs in: {page.url}")
            accessible(page, axe(), "signing in")
            page.screenshot(path=os.path.join(out, f"sign-in-{width}-{scheme}.png"))
            page.fill("#token", token)
            page.keyboard.press("Enter")
            page.wait_for_url("**/console/events?table=orders")
            check("kept" in page.inner_text("main") and "token:oncall" in page.inner_text("header"), "and is where it wanted to go")
            cookie, = tab.context.cookies(tab.base + "/console/x")
            check((cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/console"), f"the cookie: {cookie}")
            check(token not in json.dumps(cookie), "it is not the token")
            check(page.evaluate("document.cookie") == "", "no script sees it")
            tab.open("/console/events?table=orders&live=1")
            until(page, LIVE)
            tab.open("/")
            check(page.url == tab.base + "/console", "/ leads to where the session counts")
            page.wait_for_selector(".chart canvas")
            tab.is_clean("signed in")
            # The answer comes late: what the page asks meanwhile is refused, and must not lead anywhere else.
            page.route("**/console/sign-out", answered_late)
            page.click("text=Sign out")
            page.wait_for_url("**/console/sign-in")
            check(not tab.context.cookies(tab.base + "/console/x"), "signing out takes the cookie")
            tab.open("/console/tables")
            check("/console/sign-in" in page.url, "and ends the session")
            tab.close()
    say("sign in   with a token, to where one wanted to go, and out")


if __name__ == "__main__":
    main()
