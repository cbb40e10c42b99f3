package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadme runs the first commands of README as they stand, on loopback if there is nothing else.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "```sh\n")
	session, _, ok2 := strings.Cut(rest, "```")
	if !ok || !ok2 {
		t.Fatal("README has no session")
	}
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "lessons", "unit1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lessons", "unit1", "a.txt"), []byte("one and one is two\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	script := "set -eu\ntrap 'satchel --home teacher down; satchel --home laptop down; wait' EXIT\n" + session + "\ncat image/current/unit1/a.txt\n"
	cmd := exec.Command("bash", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(bin)+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "one and one is two") {
		t.Fatalf("README's session: %v\n%s", err, out)
	}
	for _, verb := range strings.Fields("keygen root trust publish follow up wait apply") {
		if !strings.Contains(session, "satchel "+verb) && !strings.Contains(session, " "+verb+" ") {
			t.Errorf("the session does not show %s", verb)
		}
	}
}
