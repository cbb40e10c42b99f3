package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"satchel/p2p"
	"satchel/p2p/control"
)

// machine is one participant of the demo: a home, an image, and while it is up a process.
type machine struct {
	d     *demo
	name  string
	home  string
	image string
	log   string // file
	id    string // node id, once it was up

	cmd    *exec.Cmd
	ended  chan struct{}
	client *control.Client
	last   p2p.Status
}

func (d *demo) machine(name string) *machine {
	return &machine{d: d, name: name, home: filepath.Join(d.dir, name), image: filepath.Join(d.dir, name+"-image"), log: filepath.Join(d.dir, name+".log")}
}

// command is this very program with this machine's home.
func (m *machine) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, m.d.exe, append([]string{"--home", m.home}, args...)...)
	cmd.Dir = m.d.dir
	// ^C on the terminal reaches the demo alone, which then stops its machines; and if the demo is killed, they end.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// output runs a verb and returns what it printed.
func (m *machine) output(ctx context.Context, args ...string) (string, error) {
	cmd := m.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", fmt.Errorf("running \"satchel %s\" as %s: %w\n%s", strings.Join(args, " "), m.name, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// verb runs a verb, and shows it and what it printed.
func (m *machine) verb(ctx context.Context, show bool, args ...string) error {
	out, err := m.output(ctx, args...)
	if err == nil && show {
		m.d.note("%s$ satchel %s\n  %s", m.name, strings.Join(args, " "), strings.ReplaceAll(strings.TrimSpace(out), "\n", "\n  "))
	}
	return err
}

// verbJSON runs a verb with --json, and shows the verb.
func (m *machine) verbJSON(ctx context.Context, v any, args ...string) error {
	m.d.note("%s$ satchel %s", m.name, strings.Join(args, " "))
	out, err := m.output(ctx, append(args, "--json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return fmt.Errorf("reading what \"satchel %s\" printed: %w", args[0], err)
	}
	return nil
}

// up starts the machine's node and returns when it answers.
func (m *machine) up(ctx context.Context, show bool) error {
	args := []string{"up", "--log-level", "warn"}
	if m.d.alone {
		args = append(args, "--no-discovery", "--listen", "/ip4/127.0.0.1/tcp/0")
		for _, other := range m.d.machines() {
			if other.running() && len(other.last.Node.Addrs) > 0 {
				args = append(args, "--peer", other.last.Node.Addrs[0])
			}
		}
	}
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("writing %s's log: %w", m.name, err)
	}
	defer log.Close()
	if show {
		m.d.note("%s$ satchel %s", m.name, strings.Join(args, " "))
	}
	m.cmd = m.command(context.WithoutCancel(ctx), args...) // it is stopped by stop
	m.cmd.Stdout, m.cmd.Stderr = log, log
	if err := m.cmd.Start(); err != nil {
		m.cmd = nil
		return fmt.Errorf("starting %s: %w", m.name, err)
	}
	m.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) { cmd.Wait(); close(ended) }(m.cmd, m.ended)
	return m.answer(ctx)
}

// answer waits until the node says where it listens.
func (m *machine) answer(ctx context.Context) (err error) {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		if m.client == nil {
			m.client, err = control.Dial(ctx, m.home)
		}
		if m.client != nil {
			if st, err := m.status(ctx); err == nil && len(st.Node.Addrs) > 0 {
				m.id = st.Node.ID
				return nil
			}
		} else if !errors.Is(err, control.ErrNotRunning) {
			return fmt.Errorf("starting %s: %w", m.name, err)
		}
		select {
		case <-again.C:
		case <-m.ended:
			return fmt.Errorf("%s's node ended as it started: %v", m.name, m.cmd.ProcessState)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (m *machine) running() bool { return m.cmd != nil }

// status asks the node, and remembers its answer for those who show it.
func (m *machine) status(ctx context.Context) (p2p.Status, error) {
	st, err := m.client.Status(ctx)
	if err != nil {
		return st, fmt.Errorf("asking %s: %w", m.name, err)
	}
	m.last = st
	return st, nil
}

func (m *machine) product(ctx context.Context) (p2p.ProductStatus, error) {
	st, err := m.status(ctx)
	for _, p := range st.Products {
		if p.Product == demoProduct {
			return p, err
		}
	}
	return p2p.ProductStatus{State: p2p.StateNone}, err
}

// stop ends the machine's node, if it is up.
func (m *machine) stop() {
	if m.cmd == nil {
		return
	}
	if m.client != nil {
		m.client.Close()
	}
	m.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-m.ended:
	case <-time.After(10 * time.Second):
		m.cmd.Process.Kill()
		<-m.ended
	}
	m.cmd, m.client = nil, nil
}

// withLogs adds the last lines of the machines' logs to an error; they are removed soon.
func (d *demo) withLogs(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	var logs []error
	for _, m := range d.machines() {
		text, _ := os.ReadFile(m.log)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		for _, l := range lines[max(0, len(lines)-5):] {
			if l != "" {
				logs = append(logs, fmt.Errorf("%s: %s", m.name, l))
			}
		}
	}
	return errors.Join(append([]error{err}, logs...)...)
}
