import sys

from nsk8s.ingress.main import main

sys.exit(main(sys.argv[1:]))
