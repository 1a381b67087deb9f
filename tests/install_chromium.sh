#!/bin/sh
# Puts a headless Chromium into .venv/chromium, for tests/report/test_report_in_chromium.py: from the npm
# registry, some 70 MB, without root and without touching the system. Needs npm and x86-64 Linux;
# elsewhere the tests use a chromium or google-chrome on the PATH, or are skipped.
set -eu
cd "$(dirname "$0")/.."

package=@sparticuz/chromium@153.0.0 # the browser built for bare machines, libraries and a font with it
here=.venv/chromium

skip() {
    echo "no headless Chromium ($1): the tests of the report in a browser will be skipped"
    exit 0
}

[ -x "$here/chromium" ] && exit 0
[ "$(uname -sm)" = "Linux x86_64" ] || skip "$(uname -sm)"
command -v npm >/dev/null || skip "no npm"

echo "fetching a headless Chromium for the tests into $here"
part=$here.part
rm -rf "$part"
mkdir -p "$part"
npm pack --silent --pack-destination "$part" "$package" >/dev/null || skip "npm cannot fetch it"
tar -xzf "$part"/*.tgz -C "$part" package/bin
node -e '
    const fs = require("fs"), zlib = require("zlib"), here = process.argv[1];
    for (const name of ["chromium", "al2023.tar", "fonts.tar"])
        fs.writeFileSync(
            `${here}/${name}`,
            zlib.brotliDecompressSync(fs.readFileSync(`${here}/package/bin/${name}.br`)),
            { mode: 0o755 },
        );
' "$part" || skip "it cannot be unpacked"
tar -xf "$part/al2023.tar" -C "$part"
tar -xf "$part/fonts.tar" -C "$part"
cat >"$part/fonts.conf" <<'XML'
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir prefix="relative">fonts</dir></fontconfig>
XML
rm -rf "$part"/*.tgz "$part"/*.tar "$part/package" "$here"
mv "$part" "$here"
