package control_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"satchel/p2p"
	"satchel/p2p/control"
	"satchel/p2p/control/controltest"
)

func TestLongPath(t *testing.T) {
	home := filepath.Join(t.TempDir(), strings.Repeat("long/", 40))
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := control.Dial(t.Context(), home); err != control.ErrNotRunning {
		t.Errorf("before: got %v", err)
	}
	stop, _ := start(t, home, &controltest.Node{})
	if _, err := dial(t, home).Status(t.Context()); err != nil {
		t.Error(err)
	}
	stop()
	if _, err := os.Lstat(filepath.Join(home, control.SocketName)); !os.IsNotExist(err) {
		t.Errorf("the socket stays: %v", err)
	}
}

func TestNoHome(t *testing.T) {
	for _, home := range []string{filepath.Join(t.TempDir(), "none"), filepath.Join(t.TempDir(), strings.Repeat("n/", 100))} {
		if _, err := control.Dial(t.Context(), home); err != control.ErrNotRunning {
			t.Errorf("dial: got %v", err)
		}
		if _, err := control.Listen(home); err == nil {
			t.Error("listens in a home that is not there")
		}
	}
}

func TestStaleSocket(t *testing.T) {
	home := t.TempDir()
	path := filepath.Join(home, control.SocketName)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	if _, err := control.Dial(t.Context(), home); err != control.ErrNotRunning {
		t.Errorf("got %v", err)
	}
	start(t, home, &controltest.Node{})
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	dial(t, home)
}

func TestNotASocket(t *testing.T) {
	home := t.TempDir()
	path := filepath.Join(home, control.SocketName)
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := control.Listen(home); err == nil {
		t.Error("replaces a file")
	}
	if text, err := os.ReadFile(path); string(text) != "precious" {
		t.Errorf("the file is gone: %q, %v", text, err)
	}
	if _, err := control.Dial(t.Context(), home); p2p.CodeOf(err) != p2p.CodeOffline && errors.Is(err, control.ErrNotRunning) {
		t.Errorf("got %v", err)
	}
}
