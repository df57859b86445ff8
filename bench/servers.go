package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// child is a server in a process of its own: this program, started again with the subcommand
// "serve". It ends when its standard input does, and so never outlives this process, however
// this one ends.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	urls  []string // of its servers
}

// startChild returns when the servers are ready.
func startChild(ctx context.Context, o serveOptions) (*child, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, o.args()...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, stdin: stdin}
	giveUp := context.AfterFunc(ctx, func() { _ = stdin.Close() }) // it then ends, and so does its output
	defer giveUp()
	if err := c.readAddresses(stdout); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s in a process of its own: %w", o.kind, err), c.stop())
	}
	return c, nil
}

// readAddresses reads a line for each server, and an empty one when all are ready.
func (c *child) readAddresses(stdout io.Reader) error {
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		url := strings.TrimSpace(lines.Text())
		if url == "" {
			return nil
		}
		c.urls = append(c.urls, url)
	}
	return errors.Join(errors.New("it ended before it was ready"), lines.Err())
}

// stop ends the servers in an orderly way and waits for the end of their process.
func (c *child) stop() error {
	_ = c.stdin.Close() // closed before: the same
	return c.cmd.Wait()
}
