package interop

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// process is a program that runs beside the test and prints lines.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr bytes.Buffer // for after the end
	lines  chan string
	stop   func() error
}

// longestLine is a line of a program: room for the values of the tests in base64.
const longestLine = 1 << 22

// startProcess starts a program that ends, by itself or not, before the test does.
func startProcess(t *testing.T, env []string, name string, args ...string) *process {
	t.Helper()
	ctx, kill := context.WithCancel(context.Background())
	p := &process{t: t, cmd: exec.CommandContext(ctx, name, args...), lines: make(chan string)}
	p.cmd.Env, p.cmd.Stderr = env, &p.stderr
	var err error
	p.stdin, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())

	leave, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer close(p.lines)
		scanner := bufio.NewScanner(stdout)
		scanner.Buffer(nil, longestLine)
		for scanner.Scan() {
			select {
			case p.lines <- scanner.Text():
			case <-leave: // nobody reads any more: go on to the end of the output
			}
		}
	}()
	p.stop = sync.OnceValue(func() error {
		close(leave)
		late := time.AfterFunc(patience, kill)
		defer late.Stop()
		_ = p.stdin.Close() // that the program has ended already is for Wait to tell
		<-ended
		err := p.cmd.Wait()
		kill()
		return err
	})
	t.Cleanup(func() { _ = p.stop() })
	return p
}

// kill ends a program that does not end with its input.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // an error tells that it has ended
	_ = p.stop()
}

// line is the next line that the program prints.
func (p *process) line() string {
	p.t.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			err := p.stop()
			require.FailNow(p.t, "the program has ended", "%v: %v\n%s", p.cmd.Args, err, p.stderr.String())
		}
		return line
	case <-time.After(patience):
		p.kill()
		require.FailNow(p.t, "the program is silent", "%v\n%s", p.cmd.Args, p.stderr.String())
	}
	return ""
}
