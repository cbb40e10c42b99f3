package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"satchel/announce"
	"satchel/p2p"
)

func newTimestampCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "timestamp",
		Short: "sign or take in a timestamp: what was the newest, and when",
		Long: withExit(`A timestamp is a small signed document that says: at this time, these were the
newest releases. It installs nothing. It lets machines without a right clock, and
without Internet, tell whether they are up to date ("fresh"), behind ("stale"), or
cut off from news ("unknown", after a week without one).

Its key does not belong to a publisher but to the timestamp role of the trust
root: a school's server signs one every hour with "satchel up --timestamp-key".`, exitOK, exitUsage),
		Example: "  satchel timestamp sign --key clock.key --out /media/stick/today\n  satchel timestamp add /media/stick/today",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownVerb(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTimestampSignCommand(e), newTimestampAddCommand(e), newTimestampShowCommand(e))
	return cmd
}

// timestampInfo is what the timestamp verbs print as JSON.
type timestampInfo struct {
	RootVersion uint64              `json:"root_version"`
	Issued      int64               `json:"issued"`
	Signers     []string            `json:"signers"`
	Heads       []p2p.TimestampHead `json:"heads"`
}

func newTimestampSignCommand(e *env) *cobra.Command {
	var keys []string
	var out string
	cmd := &cobra.Command{
		Use:   "sign --key FILE [--out FILE]",
		Short: "sign a timestamp of what this home knows, as of now",
		Long: withExit(`Sign a timestamp that says: as of now, the releases that this home knows are the
newest. The home takes it on and the node passes it on. With --out it is written
to a file too, to be carried to others by "satchel timestamp add"; an older
timestamp in that file is replaced.

The time is that of this machine's clock. One that cannot be right, because what
is signed already is later or much earlier, is refused.

Works with and without a running node.`, exitOK, exitFailure, exitUsage, exitRefused, exitInUse),
		Example:           "  satchel timestamp sign --key clock.key\n  satchel timestamp sign --key clock.key --out /media/stick/today",
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "private key `FILE` with the timestamp role; may be repeated")
	cmd.Flags().StringVar(&out, "out", "", "also write it to `FILE`")
	asJSON := jsonFlag(cmd)
	cmd.MarkFlagRequired("key")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		private, err := e.readKeys(keys)
		if err != nil {
			return err
		}
		if err := mayReplace(out); err != nil {
			return err
		}
		return e.withNode(cmd.Context(), func(s *session) error {
			next, err := s.NextTimestamp(cmd.Context())
			if err != nil {
				return err
			}
			at := time.Now().Unix()
			envelopes, err := next.Sign(at, private...)
			if err != nil {
				return err
			}
			var all []byte
			for _, env := range envelopes {
				if err := s.AddTimestamp(cmd.Context(), env); err != nil {
					return err
				}
				all = append(all, env...)
			}
			if out != "" {
				if err := replaceOrNew(out, all); err != nil {
					return err
				}
			}
			if *asJSON {
				info := timestampInfo{RootVersion: next.RootVersion, Issued: at, Signers: []string{}, Heads: next.Heads}
				for _, k := range private {
					info.Signers = append(info.Signers, k.Public().ID().String())
				}
				return e.printJSON(info)
			}
			fmt.Fprintf(e.stdout, "timestamp of %s for %s, %d bytes\n", utc(at), count(len(next.Heads), "product", "products"), len(all))
			if len(next.Heads) == 0 {
				e.say("hint", "this home knows no release yet, so the timestamp vouches for none")
			}
			e.hintUp(s)
			return nil
		})
	}
	return cmd
}

// mayReplace lets the timestamp of yesterday be written over, and nothing else.
func mayReplace(file string) error {
	if _, err := os.Lstat(file); file == "" || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := readTimestamps(file); err != nil {
		return advise(p2p.CodeBadInput, "choose another name, or move that file away", fmt.Errorf("%s is there already and is no timestamp", file))
	}
	return nil
}

func replaceOrNew(file string, text []byte) error {
	if _, err := os.Lstat(file); err != nil {
		return writeNew(file, text, 0o644)
	}
	return replaceFile(file, text)
}

// readKeys reads private keys.
func (e *env) readKeys(files []string) (keys []announce.PrivateKey, err error) {
	for _, file := range files {
		k, err := e.readKey(file)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func utc(unix int64) string { return time.Unix(unix, 0).UTC().Format("2006-01-02 15:04") + " UTC" }

func newTimestampAddCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "add FILE",
		Short: "take in a timestamp that came in a file",
		Long: withExit(`Take in a timestamp from a file that "satchel timestamp sign --out" wrote. It is
checked like one that comes from a neighbour, and passed on.

Works with and without a running node.`, exitOK, exitFailure, exitUsage, exitRefused, exitInUse, exitNotFound),
		Example: "  satchel timestamp add /media/stick/today",
		Args:    exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			stamps, err := readTimestamps(args[0])
			if err != nil {
				return err
			}
			return e.withNode(cmd.Context(), func(s *session) error {
				done := "is no news here"
				for _, st := range stamps {
					err := s.AddTimestamp(cmd.Context(), st.Envelope())
					if err == nil {
						done = "taken"
					} else if p2p.CodeOf(err) != p2p.CodeOlder {
						return err
					}
				}
				fmt.Fprintf(e.stdout, "timestamp of %s %s\n", utc(stamps[0].Issued), done)
				return nil
			})
		},
	}
}

func newTimestampShowCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "say what a timestamp says",
		Long: withExit(`Say what a timestamp in a file says. Its signatures are not checked: that needs a
trust root, and "satchel timestamp add" does it.`, exitOK, exitFailure, exitUsage, exitRefused, exitNotFound),
		Example: "  satchel timestamp show /media/stick/today",
		Args:    exactly("FILE"),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		stamps, err := readTimestamps(args[0])
		if err != nil {
			return err
		}
		for _, st := range stamps {
			info := timestampInfo{RootVersion: st.RootVer, Issued: st.Issued, Signers: idStrings(st.Signers()), Heads: []p2p.TimestampHead{}}
			rows := []string{"issued\t" + utc(st.Issued), fmt.Sprintf("root version\t%d", st.RootVer), "signed by\t" + strings.Join(info.Signers, ", ")}
			for _, h := range st.Heads {
				info.Heads = append(info.Heads, p2p.TimestampHead{Product: h.Product, Epoch: h.Epoch, Seq: h.Seq})
				rows = append(rows, fmt.Sprintf("newest\t%s epoch %d, seq %d", h.Product, h.Epoch, h.Seq))
			}
			if *asJSON {
				if err := e.printJSON(info); err != nil {
					return err
				}
				continue
			}
			table(e.stdout, rows...)
		}
		return nil
	}
	return cmd
}

// readTimestamps reads a file of timestamps, at least one.
func readTimestamps(file string) (all []*announce.SignedTimestamp, err error) {
	const most = 16
	text, _, err := readSmall(file, most*announce.MaxTimestampEnvelope)
	if err != nil {
		return nil, fmt.Errorf("reading the timestamp: %w", err)
	}
	for len(all) == 0 || len(text) > 0 {
		st, rest, err := announce.ParseFirstTimestamp(text)
		if err != nil || len(all) == most {
			return nil, advise(p2p.CodeRefused, `a timestamp is made by "satchel timestamp sign --out"`, fmt.Errorf("reading the timestamp %s: %w", file, err))
		}
		all, text = append(all, st), rest
	}
	return all, nil
}
