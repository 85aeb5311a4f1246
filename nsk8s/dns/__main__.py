import sys

from nsk8s.dns.main import main

sys.exit(main(sys.argv[1:]))
