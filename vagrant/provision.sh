#!/bin/sh
# Runs as root in the virtual machine, at the first `vagrant up` and at every `vagrant provision`.
set -eu

cd /vagrant
./scripts/setup
# The command is root's; `sudo nsk8s` finds it, since sudo's secure_path has /usr/local/bin.
cat >/etc/profile.d/nsk8s.sh <<'EOF'
if [ -t 1 ]; then
  echo "nsk8s is installed: sudo nsk8s up, or see it all at once: sudo /vagrant/scripts/quickstart"
fi
EOF
