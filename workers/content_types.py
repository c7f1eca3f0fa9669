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


UNKNOWN = "application/octet-stream"
# Extension → type, text with its charset.
CONTENT_TYPES = {extension: f"{name}; charset=utf-8" for extension, name in _TEXT.items()} | _BINARY


def content_type(path: str) -> str:
    """The type by the last extension, text with its charset; `application/octet-stream` for unknown ones."""
    name = path.rpartition("/")[2]
    extension = name.rpartition(".")[2].lower() if "." in name else ""
    return CONTENT_TYPES.get(extension, UNKNOWN)
