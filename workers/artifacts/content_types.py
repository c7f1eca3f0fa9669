"""Content types by file extension: a table of our own, so that a manifest is the same on every machine.

The site router serves them by shared/stack/content_types.caddy, which is made from this table.
"""

from __future__ import annotations

_TEXT = {
    "htm": "text/html",
    "html": "text/html",
    "css": "text/css",
    "csv": "text/csv",
    "ics": "text/calendar",
    "js": "text/javascript",
    "mjs": "text/javascript",
    "cjs": "text/javascript",
    "md": "text/markdown",
    "txt": "text/plain",
    **dict.fromkeys(("asc", "bib", "cfg", "conf", "diff", "ini", "log", "patch", "pem", "rst", "tex"), "text/plain"),
    **dict.fromkeys(("c", "cpp", "go", "h", "java", "jsx", "lua", "php", "pl", "py", "r", "rb", "rs"), "text/plain"),
    **dict.fromkeys(("bash", "sh", "sql", "srt", "tsx"), "text/plain"),
    "tsv": "text/tab-separated-values",
    "vcf": "text/vcard",
    "toml": "application/toml",
    "json5": "application/json5",
    "ipynb": "application/x-ipynb+json",
    "topojson": "application/json",
    "opml": "text/x-opml",
    "gpx": "application/gpx+xml",
    "kml": "application/vnd.google-earth.kml+xml",
    "gltf": "model/gltf+json",
    "vtt": "text/vtt",
    "xml": "text/xml",
    "xsl": "text/xml",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "json": "application/json",
    "map": "application/json",
    "jsonld": "application/ld+json",
    "geojson": "application/geo+json",
    "webmanifest": "application/manifest+json",
    "atom": "application/atom+xml",
    "rss": "application/rss+xml",
    "xhtml": "application/xhtml+xml",
    "svg": "image/svg+xml",
}
_BINARY = {
    "7z": "application/x-7z-compressed",
    "apk": "application/vnd.android.package-archive",
    "doc": "application/msword",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "ppt": "application/vnd.ms-powerpoint",
    "pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "xls": "application/vnd.ms-excel",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "odp": "application/vnd.oasis.opendocument.presentation",
    "ods": "application/vnd.oasis.opendocument.spreadsheet",
    "odt": "application/vnd.oasis.opendocument.text",
    "rtf": "application/rtf",
    "heic": "image/heic",
    "m3u8": "application/vnd.apple.mpegurl",
    "m4s": "video/iso.segment",
    "mpd": "application/dash+xml",
    "mkv": "video/matroska",
    "ttc": "font/collection",
    "ts": "video/mp2t",
    "usdz": "model/vnd.usdz+zip",
    "aac": "audio/aac",
    "apng": "image/apng",
    "avif": "image/avif",
    "bmp": "image/bmp",
    "bz2": "application/x-bzip2",
    "eot": "application/vnd.ms-fontobject",
    "epub": "application/epub+zip",
    "flac": "audio/flac",
    "gif": "image/gif",
    "glb": "model/gltf-binary",
    "gz": "application/gzip",
    "ico": "image/x-icon",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "jxl": "image/jxl",
    "m4a": "audio/mp4",
    "m4v": "video/mp4",
    "mov": "video/quicktime",
    "mp3": "audio/mpeg",
    "mp4": "video/mp4",
    "oga": "audio/ogg",
    "ogg": "audio/ogg",
    "ogv": "video/ogg",
    "opus": "audio/opus",
    "otf": "font/otf",
    "pdf": "application/pdf",
    "png": "image/png",
    "tar": "application/x-tar",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "ttf": "font/ttf",
    "wasm": "application/wasm",
    "wav": "audio/wav",
    "weba": "audio/webm",
    "webm": "video/webm",
    "webp": "image/webp",
    "woff": "font/woff",
    "woff2": "font/woff2",
    "zip": "application/zip",
    "zst": "application/zstd",
}


_TEXT_NAMES = (
    *("authors", "changelog", "cname", "code_of_conduct", "contributing", "copying", "copyright", "dockerfile"),
    *("gpl", "install", "licence", "license", "maintainers", "makefile", "notice", "readme", "security", "version"),
)

UNKNOWN = "application/octet-stream"
# Extension → type, text with its charset.
CONTENT_TYPES = {extension: f"{name}; charset=utf-8" for extension, name in _TEXT.items()} | _BINARY
# Whole name without an extension, in small letters → type. Apple and OpenID Connect fix names for JSON.
NAMED_TYPES = dict.fromkeys(_TEXT_NAMES, "text/plain; charset=utf-8") | dict.fromkeys(
    ("apple-app-site-association", "oauth-authorization-server", "openid-configuration"), "application/json"
)


def content_type(path: str) -> str:
    """The type by the last extension, else by the whole name; text with its charset, `application/octet-stream` for
    unknown ones."""
    name = path.rpartition("/")[2].lower()
    _, dot, extension = name.rpartition(".")
    return (CONTENT_TYPES.get(extension) if dot else NAMED_TYPES.get(name)) or UNKNOWN
