"""The page of a verdict in a browser: on a phone of 375 pixels, and printed on A4. Needs a Chromium, and playwright and pypdf:
`pip install playwright pypdf`, then `apt-get install chromium` or `playwright install chromium`.
"""

import io
import re
import shutil
import unicodedata

import pytest

from ownership.claims import commitment

pytestmark = pytest.mark.nightly
PHONE = {"width": 375, "height": 800}
A4 = (595, 842)  # points
TOO_WIDE = """[...document.querySelectorAll("body *")].filter(one => {
    const place = one.getBoundingClientRect();
    return place.width && (place.right > innerWidth + 0.5 || place.left < -0.5 || one.scrollWidth > one.clientWidth + 1 && one.clientWidth);
}).map(one => one.outerHTML.slice(0, 80))"""
ROWS = """[...document.querySelectorAll("tbody tr, .facts tr")].map(row => [...row.cells].map(cell => cell.textContent))"""


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright pypdf")
    pytest.importorskip("pypdf", reason="pip install playwright pypdf")
    installed = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium here: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(run_main, owner, tmp_path_factory):
    """Title -> a page: everything shows, nothing does, the claim does not hold; and a dispute."""
    folder = tmp_path_factory.mktemp("pages")
    changed = commitment.read_claim(owner / "claim.json")[0]
    changed = commitment.SaltedClaim({**changed.values, "owner": "John"}, changed.salts, changed.format)
    (folder / "changed.json").write_bytes(commitment._text(commitment._private_content(changed)))
    hers = ("--claim", owner / "claim.json", "--commitment", owner / "commitment.json")
    proofs = ("--dataset", "digits", "--trigger_key", owner / "trigger.key", "--restarts", 0)
    assert run_main("make_claim.py", "--owner", "John", "--v3", owner / "triggers", "--save_dir", folder / "john").returncode == 0
    asked = {
        "owned": (*hers, "--suspect", owner / "own.pth.tar", *proofs),
        "not shown": (*hers, "--suspect", owner / "innocent.pth.tar", *proofs),
        "refused": ("--claim", folder / "changed.json", *hers[2:], "--suspect", owner / "own.pth.tar"),
        "two claims": (*hers, "--claim", folder / "john/claim.json", "--commitment", folder / "john/commitment.json", "--suspect",
                       owner / "own.pth.tar", *proofs, "--own", owner / "own.pth.tar", "--own", owner / "innocent.pth.tar")}
    for name, words in asked.items():
        done = run_main("main_verify.py", *words, "--report", folder / f"{name}.html")
        assert (folder / f"{name}.html").exists(), done.stderr
    return {name: folder / f"{name}.html" for name in asked}


def squeezed(text: str) -> str:
    """Without spaces and ligatures, which a printed file may have in other places."""
    return re.sub(r"\s", "", unicodedata.normalize("NFKC", text))


NAMES = pytest.mark.parametrize("name", ["owned", "not shown", "refused", "two claims"])


@NAMES
def test_nothing_is_wider_than_a_phone(browser, pages, name):
    page = browser.new_page(viewport=PHONE)
    page.goto(pages[name].as_uri())
    assert page.evaluate("innerWidth") == PHONE["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"] and page.evaluate(TOO_WIDE) == []
    page.close()


@NAMES
def test_printed_on_a4_no_row_is_cut(browser, pages, name):
    import pypdf

    page = browser.new_page()
    page.goto(pages[name].as_uri())
    rows, title = page.evaluate(ROWS), page.title()
    printed = pypdf.PdfReader(io.BytesIO(page.pdf(prefer_css_page_size=True)))
    page.close()
    assert len(printed.pages) <= {"refused": 1, "two claims": 4}.get(name, 3)
    texts = [squeezed(sheet.extract_text()) for sheet in printed.pages]
    for sheet, text in zip(printed.pages, texts):
        assert (round(sheet.mediabox.width), round(sheet.mediabox.height)) == A4
        assert squeezed(title) in text, "in the footer, too"
    cells = [[squeezed(cell) for cell in row] for row in rows]
    for row in cells:
        assert any(all(cell in text for cell in row) for text in texts), row
