package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"satchel/p2p"
)

func newRootDocCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "root",
		Short: "make, change, sign or show a trust root",
		Long: withExit(`A trust root is the signed document that says which keys may publish which
products. Every machine of a mesh trusts the same one. It has versions: each next
one is signed by as many root keys of the version before as that asks for, and by
as many of its own.

A root file holds all versions, and people pass it around. One makes it, or
changes it, which begins a draft of the next version; each of the others looks at
it and signs; when nothing lacks any more it is trusted on one machine, from which
it travels. Who signs at the same time as others signs a copy: "root sign --merge"
puts the signatures together. A change to a draft drops the signatures it has.

  new → sign ... sign → trust → add-key, remove-key, set → sign ... sign → trust`,
			exitOK, exitUsage),
		Example: `  satchel root new --out school.root --key ana.key --key bo.key.pub --key chi.key.pub --threshold 2
  satchel root sign school.root --key bo.key
  satchel root add-key school.root dora.key.pub --product 'lessons.5b.*'
  satchel root show school.root`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownVerb(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newRootNewCommand(e), newRootAddKeyCommand(e), newRootRemoveKeyCommand(e), newRootSetCommand(e),
		newRootSignCommand(e), newRootVerifyCommand(e), newRootShowCommand(e))
	return cmd
}

// readSmall reads a regular file of at most limit bytes.
func readSmall(file string, limit int) ([]byte, fs.FileInfo, error) {
	info, err := os.Stat(file)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", file)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = advise(p2p.CodeNotFound, "check the name", err)
	}
	if err != nil {
		return nil, nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	text, err := readUpTo(f, limit, file)
	return text, info, err
}

func readUpTo(r io.Reader, limit int, name string) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err == nil && len(text) > limit {
		err = fmt.Errorf("%s is too large: the limit is %d bytes", name, limit)
	}
	return text, err
}
