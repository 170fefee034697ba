#!/usr/bin/env python3
"""Makes the README's pictures from real runs:

    pictures.py ELECT     docs/demo.txt, docs/demo.svg and docs/page.png
    pictures.py --print   demo.svg, from docs/demo.txt, to the standard output

ELECT is the binary, as in target/release/elect. The recording is three rounds of `elect demo`; demo.svg shows its
beginning and its end. page.png is the page of a leader while the demonstration runs. It needs
chromium and chromedriver, and is left as it is without them. All else needs Python alone.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from html import escape

DOCS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "docs")

# Of the recording: up to the first takeover's end, and the table of them.
FIRST_LINES_UNTIL = re.compile(r"^# server\d is started again")
TABLE_FROM = re.compile(r"^From the leader's SIGKILL")

WIDTH, LINE, LETTER, EDGE, BAR = 760, 17, 7.83, 16, 34
SERVERS = {"server1": "#7ee787", "server2": "#79c0ff", "server3": "#d2a8ff"}
NO_BREAK = "\u00a0"  # renderers run plain blanks together
TEXT, FAINT, LEADS, LOST = "#e6edf3", "#8b949e", "#ffdf5d", "#ffa198"


def record(elect):
    """The lines of three rounds."""
    run = subprocess.run([elect, "demo", "--rounds", "3"], capture_output=True, text=True, timeout=120)
    if run.returncode != 0:
        sys.exit(f"elect demo: exit {run.returncode}\n{run.stderr}")
    return ["$ elect demo --rounds 3"] + run.stdout.splitlines()


def shown(lines):
    """What of them the picture has room for."""
    first = next(n for n, line in enumerate(lines) if FIRST_LINES_UNTIL.match(line))
    table = next(n for n, line in enumerate(lines) if TABLE_FROM.match(line))
    while lines[first - 1] == "":
        first -= 1
    return lines[:first] + ["", "…", ""] + lines[table:]


def spans(line):
    """Pieces of a line with their colours."""
    server, bar, said = line.partition(" | ")
    if bar and server.strip() in SERVERS:
        colour = LEADS if said == "I am the leader." else LOST if said.startswith("LEADERSHIP") else TEXT
        return [(server + bar, SERVERS[server.strip()]), (said, colour)]
    if line.startswith("#"):
        return [(line, LEADS)]
    if line.startswith("$"):
        return [(line[:2], FAINT), (line[2:], TEXT)]
    return [(line, FAINT if line == "…" else TEXT)]


def picture(lines):
    height = BAR + EDGE + LINE * len(lines)
    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>elect demo: three servers, the leader is killed, and another one takes over</title>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#0d1117"/>',
    ]
    svg += [f'<circle cx="{20 + 18 * n}" cy="17" r="5.5" fill="{colour}"/>'
            for n, colour in enumerate(["#ff5f56", "#ffbd2e", "#27c93f"])]
    svg.append('<g font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,\'DejaVu Sans Mono\',monospace" font-size="13">')
    for number, line in enumerate(lines):
        y = BAR + LINE * number + 12
        column = 0
        texts = []
        for text, colour in spans(line):
            # Each piece has its place and its length, so that any monospaced font gives the same columns.
            x = EDGE + column * LETTER
            length = len(text) * LETTER
            texts.append(f'<tspan x="{x:.1f}" textLength="{length:.1f}" fill="{colour}">{escape(text).replace(" ", NO_BREAK)}</tspan>')
            column += len(text)
        if line:
            svg.append(f'<text y="{y}">{"".join(texts)}</text>')
    return "\n".join(svg + ["</g>", "</svg>", ""])


def ask(driver, path, body=None, method=None):
    """One command of WebDriver."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(driver + path, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["value"]


def photograph(elect, chromedriver, into):
    """The page of the second leader, after the first was killed and is back."""
    demo = subprocess.Popen([elect, "demo", "--rounds", "20"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    browser = subprocess.Popen([chromedriver, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        port = next(found[1] for line in browser.stdout if (found := re.search(r"started successfully on port (\d+)", line)))
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=760,900"]
        options = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": arguments}}}}
        driver = f"http://127.0.0.1:{port}/session"
        driver += "/" + ask(driver, "", options)["sessionId"]
        pages, leader = {}, None
        for line in demo.stdout:
            if found := re.match(r"^\s+(server\d)\s+(http://\S+)", line):
                pages[found[1]] = found[2]
            if found := re.match(r"^# (server\d) leads", line):
                leader = found[1]
            if leader and FIRST_LINES_UNTIL.match(line):
                break
        ask(driver, "/url", {"url": pages[leader]})
        ready = {"script": "return document.querySelectorAll('#timeline tbody tr').length > 0", "args": []}
        while not ask(driver, "/execute/sync", ready):
            time.sleep(0.05)
        whole = ask(driver, "/element", {"using": "css selector", "value": "body"})
        picture = ask(driver, f"/element/{next(iter(whole.values()))}/screenshot")
        with open(into, "wb") as file:
            file.write(base64.b64decode(picture))
        ask(driver, "", method="DELETE")
    finally:
        for process in (demo, browser):
            process.terminate()
            process.wait(timeout=30)


def main():
    [elect] = sys.argv[1:]
    if elect == "--print":
        with open(os.path.join(DOCS, "demo.txt"), encoding="utf-8") as file:
            sys.stdout.write(picture(shown(file.read().splitlines())))
        return
    lines = record(elect)
    with open(os.path.join(DOCS, "demo.txt"), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    with open(os.path.join(DOCS, "demo.svg"), "w", encoding="utf-8") as file:
        file.write(picture(shown(lines)))
    chromedriver = shutil.which("chromedriver")
    if chromedriver:
        photograph(elect, chromedriver, os.path.join(DOCS, "page.png"))
    else:
        print("page.png is as it was: there is no chromedriver here", file=sys.stderr)


if __name__ == "__main__":
    main()
