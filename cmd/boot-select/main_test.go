package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"satchel/store/image/boot"
)

func TestRun(t *testing.T) {
	image, empty := filepath.Join(t.TempDir(), "image"), t.TempDir()
	for _, id := range []string{"one", "two"} {
		if err := os.MkdirAll(filepath.Join(image, "deploy", id), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r := boot.Record{Generation: 1, Live: "one", Trial: "two", Tries: 1}
	if err := os.WriteFile(filepath.Join(image, "boot.0"), r.Encode(), 0o644); err != nil {
		t.Fatal(err)
	}
	one, two := image+"/deploy/one\n", image+"/deploy/two\n"
	for _, c := range []struct {
		args   string
		code   int
		stdout string
		stderr string // is in it; "" is nothing
	}{
		{"", 2, "", "usage:"},
		{"--nonsense " + image, 2, "", "usage:"},
		{image + " " + image, 2, "", "usage:"},
		{"--help", 2, "", "usage:"},
		{empty, 6, "", "error: choosing what to boot"},
		{image + "/nothing", 1, "", "no such file"},
		{"--look " + image, 0, two, ""},
		{image, 0, two, ""},
		{"--json --look " + image, 0, `{"deployment":"one","tree":"` + image + `/deploy/one","trial":false,"tries_left":0,"failed":"two"}` + "\n", ""},
		{image, 0, one, ""},
	} {
		var stdout, stderr strings.Builder
		code := run(strings.Fields(c.args), &stdout, &stderr)
		if code != c.code || stdout.String() != c.stdout || !strings.Contains(stderr.String(), c.stderr) || c.stderr == "" && stderr.Len() > 0 {
			t.Errorf("boot-select %s: code %d, %q, %q; want %+v", c.args, code, stdout.String(), stderr.String(), c)
		}
	}
}
