// Command boot-select says which tree of an image a machine is to be started with. It is for an initramfs or a boot script: static, small, and
// without anything else of satchel's.
//
//	boot-select [--json] [--look] IMAGE
//
// It prints the path of the tree. When that is on trial, one try has been taken away from it, durably. What goes wrong with the record is
// said on the standard error, and the tree that is live is printed all the same. With --look nothing changes. With --json a line of JSON is printed, as
// "satchel boot-select --json" does. The exit code is 0 when a tree was printed, 1 on an error, 2 when the command line is wrong, and 6
// when there is no tree to start.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"satchel/store/image/boot"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("boot-select", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprintln(stderr, "usage: boot-select [--json] [--look] IMAGE") }
	asJSON := flags.Bool("json", false, "")
	look := flags.Bool("look", false, "")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() != 1 {
		flags.Usage()
		return 2
	}
	choose := boot.Select
	if *look {
		choose = boot.Look
	}
	c, err := choose(flags.Arg(0))
	if err != nil {
		fmt.Fprintln(stderr, "boot-select: error:", err)
		if errors.Is(err, boot.ErrNothing) {
			return 6
		}
		return 1
	}
	if c.Problem != nil {
		fmt.Fprintln(stderr, "boot-select: warning:", c.Problem)
	}
	text := c.Tree + "\n"
	if *asJSON {
		b, _ := json.Marshal(c.Telling())
		text = string(b) + "\n"
	}
	if _, err := io.WriteString(stdout, text); err != nil {
		fmt.Fprintln(stderr, "boot-select: error:", err)
		return 1
	}
	return 0
}
