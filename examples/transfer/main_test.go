package main

import (
	"os"
	"testing"

	"github.com/seed646b090f/jskv/examples/internal/exampletest"
)

// output is what the program must print, byte for byte.
const output = `opened, revisions [1 2 3]
  bob has 20.00 (revision 1)
  eve has 0.00 (revision 2)
  sue has 100.00 (revision 3)
sue paid bob 30.00
  bob has 50.00 (revision 5)
  eve has 0.00 (revision 2)
  sue has 70.00 (revision 4)
eve cannot pay sue 0.01: not enough money
  bob has 50.00 (revision 5)
  eve has 0.00 (revision 2)
  sue has 70.00 (revision 4)
attempt 1: sue has 70.00
meanwhile bob pays sue 10.00
attempt 2: sue has 80.00
sue paid eve 50.00
  bob has 40.00 (revision 6)
  eve has 50.00 (revision 9)
  sue has 30.00 (revision 8)
no interest: bob was written since
  bob has 45.00 (revision 11)
  eve has 50.00 (revision 9)
  sue has 25.00 (revision 10)
60 transfers by 4 clerks, audited all the while: 120.00
`

func TestMain(m *testing.M) { os.Exit(exampletest.Main(m)) }

func TestTheTransfersPrintWhatTheyMust(t *testing.T) {
	t.Parallel()
	exampletest.Manners(t, exampletest.Prints(output), "accounts")
}
