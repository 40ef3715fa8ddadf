#!/bin/sh
# Make sure a software OpenGL library is there (LIBERO renders with MuJoCo, MuJoCo with OpenGL).
# Installs it through apt when that is allowed; otherwise says in one sentence what to install.
set -eu
have() { ldconfig -p 2>/dev/null | grep -q "$1"; }
if have libOSMesa.so || have libEGL_mesa.so; then exit 0; fi
packages="libosmesa6 libegl1 libgl1"
refuse() {
    echo "no software OpenGL library could be installed: install one first, e.g. sudo apt-get install $packages" >&2
    exit 1
}
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "installing a software OpenGL library: $packages" >&2
    apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q $packages >/dev/null || refuse
elif command -v apt-get >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    echo "installing a software OpenGL library with sudo: $packages" >&2
    sudo -n apt-get update -q >/dev/null && sudo -n env DEBIAN_FRONTEND=noninteractive apt-get install -y -q $packages >/dev/null || refuse
else
    refuse
fi
