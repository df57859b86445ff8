package main

import (
	"os"
	"testing"

	"github.com/seed646b090f/jskv/examples/internal/exampletest"
)

// output is what the program must print, byte for byte.
const output = `log: checkout.express is at 0 %
log: search.fuzzy is at 100 %
  checkout.express: 0 of 1000 users
  search.fuzzy: 1000 of 1000 users
log: checkout.express goes from 0 % to 10 %
  checkout.express: 106 of 1000 users
log: checkout.express goes from 10 % to 50 %
  checkout.express: 498 of 1000 users
log: checkout.express goes from 50 % to 100 %
  checkout.express: 1000 of 1000 users
log: checkout.express is gone
  checkout.express: 0 of 1000 users
log: search.voice is at 100 %
log: search.voice is off, its value is not a flag: on
  search.fuzzy: 1000 of 1000 users
log: search.voice is at 20 %
of the team search:
  search.fuzzy, revision 2
  search.voice, revision 9
200000 decisions by 4 workers, and no request to the server
`

func TestMain(m *testing.M) { os.Exit(exampletest.Main(m)) }

func TestTheFlagsPrintWhatTheyMust(t *testing.T) {
	t.Parallel()
	exampletest.Manners(t, exampletest.Prints(output), "flags")
}
