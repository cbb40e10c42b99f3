package main_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs the binary itself by the scripts of testdata. Beyond the commands of testscript they have:
//
//	code N satchel ARGS...   the program ends with exit code N
//	listens HOME [VAR]       waits until the node of HOME listens; VAR gets its first address
//	fifo FILE                makes a named pipe
//	mode OCTAL FILE...       the files have this mode
//	same A B                 two trees are equal in types, modes, content and links
//	gone PATTERN             nothing matches the pattern
func TestScripts(t *testing.T) {
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		Deadline:            time.Now().Add(4 * time.Minute),
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			tmp := filepath.Join(e.WorkDir, "tmp")
			e.Setenv("PATH", filepath.Dir(bin)+string(filepath.ListSeparator)+os.Getenv("PATH"))
			e.Setenv("TMPDIR", tmp)
			e.Setenv("XDG_DATA_HOME", "")
			e.Setenv("LOCAL", "--no-discovery --listen /ip4/127.0.0.1/tcp/0")
			return os.MkdirAll(tmp, 0o700)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"code": code, "listens": listens, "fifo": fifo, "mode": mode, "same": same, "gone": gone,
		},
	})
}

func code(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%v: exit code %d, want %d", args[1:], got, want)
	}
}

func listens(ts *testscript.TestScript, _ bool, args []string) {
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	late := time.After(time.Minute)
	for {
		text, err := os.ReadFile(ts.MkAbs(filepath.Join(args[0], "addrs")))
		if first, _, whole := strings.Cut(string(text), "\n"); err == nil && whole {
			if len(args) > 1 {
				ts.Setenv(args[1], first)
			}
			return
		}
		select {
		case <-again.C:
		case <-late:
			ts.Fatalf("%s does not listen", args[0])
		}
	}
}

func fifo(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(syscall.Mkfifo(ts.MkAbs(args[0]), 0o600))
}

func mode(ts *testscript.TestScript, _ bool, args []string) {
	for _, file := range args[1:] {
		info, err := os.Lstat(ts.MkAbs(file))
		ts.Check(err)
		if got := fmt.Sprintf("%o", info.Mode().Perm()); got != args[0] {
			ts.Fatalf("%s has mode %s, want %s", file, got, args[0])
		}
	}
}

func same(ts *testscript.TestScript, _ bool, args []string) {
	list := `cd "$0/" && find . -mindepth 1 -printf '%P %y %m %l\n' | sort; find . -type f -print0 | sort -z | xargs -0r sha256sum`
	var lists []string
	for _, dir := range args {
		out, err := exec.Command("sh", "-c", list, ts.MkAbs(dir)).Output()
		ts.Check(err)
		lists = append(lists, string(out))
	}
	if lists[0] != lists[1] || len(lists[0]) < 10 {
		ts.Fatalf("the trees differ:\n%s\n%s", lists[0], lists[1])
	}
}

func gone(ts *testscript.TestScript, _ bool, args []string) {
	found, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(found) > 0 {
		ts.Fatalf("there is still %v", found)
	}
}
