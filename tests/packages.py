"""Packages as pip installs them, with the files of a test."""


def install(folder, package, files):
    """Write `files`, contents by path, and what importlib.metadata reads of a package into `folder`."""
    described = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (described / "RECORD").write_text("".join(f"{name},,\n" for name in files))
