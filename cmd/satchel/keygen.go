package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"satchel/announce"
	"satchel/p2p"
)

func newKeygenCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keygen FILE",
		Short: "make a key that signs releases",
		Long: withExit(`Make an Ed25519 key. FILE gets the private key and can be read by its owner
alone; FILE.pub gets the public one. Neither is overwritten. The key's id, which
trust roots and errors show, is printed.

Whoever has FILE can publish as you: keep it off machines that others use, and
keep a copy of it on paper or on a stick in a drawer.`, exitOK, exitFailure, exitUsage),
		Example: "  satchel keygen school.key",
		Args:    exactly("FILE"),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		id, err := keygen(args[0])
		if err != nil {
			return err
		}
		if *asJSON {
			return e.printJSON(struct {
				ID      string `json:"id"`
				Private string `json:"private"`
				Public  string `json:"public"`
			}{id.String(), args[0], args[0] + ".pub"})
		}
		fmt.Fprintf(e.stdout, "key %s: private in %s, public in %s.pub\n", id, args[0], args[0])
		return nil
	}
	return cmd
}

func keygen(file string) (id announce.KeyID, err error) {
	key, err := announce.GenerateKey(rand.Reader)
	if err != nil {
		return id, fmt.Errorf("making a key: %w", err)
	}
	private, err := key.MarshalText()
	if err != nil {
		return id, fmt.Errorf("making a key: %w", err)
	}
	public, err := key.Public().MarshalText()
	if err != nil {
		return id, fmt.Errorf("making a key: %w", err)
	}
	if err := writeNew(file, private, 0o600); err != nil {
		return id, err
	}
	if err := writeNew(file+".pub", public, 0o644); err != nil {
		return id, errors.Join(err, os.Remove(file))
	}
	return key.Public().ID(), nil
}

// writeNew writes a file that must not exist yet, and has it on the disk when it returns.
func writeNew(file string, text []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return advise(p2p.CodeBadInput, "choose another name, or move that file away", fmt.Errorf("%s is there already and is not overwritten", file))
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if c := f.Close(); err == nil {
		err = c
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", file, err), os.Remove(file))
	}
	return nil
}

// maxKeyFile bounds what is read of a key file, in bytes.
const maxKeyFile = 16 << 10

// readKey reads a private key, and warns when others can read it too.
func (e *env) readKey(file string) (key announce.PrivateKey, err error) {
	text, info, err := readSmall(file, maxKeyFile)
	if err != nil {
		return key, fmt.Errorf("reading the key: %w", err)
	}
	key, err = announce.ParsePrivateKey(text)
	if err != nil {
		hint := "make one with \"satchel keygen FILE\""
		if _, pub := announce.ParsePublicKey(text); pub == nil {
			hint = "this is the public half; the private one has the same name without .pub"
		}
		return key, advise(p2p.CodeBadInput, hint, fmt.Errorf("reading the key %s: %w", file, err))
	}
	if info.Mode().Perm()&0o077 != 0 {
		e.say("warning", fmt.Sprintf("others can read the private key %s: chmod 600 it", file))
	}
	return key, nil
}
