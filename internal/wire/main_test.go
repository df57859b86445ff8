package wire

import (
	"testing"

	"github.com/seed646b090f/jskv/internal/leak"
)

func TestMain(m *testing.M) { leak.VerifyTestMain(m) }
