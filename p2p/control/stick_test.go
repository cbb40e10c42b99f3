package control_test

import (
	"testing"

	"satchel/p2p"
	"satchel/p2p/control"
	"satchel/p2p/control/controltest"
)

func TestStick(t *testing.T) {
	both(t, func(t *testing.T, node *controltest.Node, c *control.Client) {
		steps := 0
		out, err := c.Export(t.Context(), p2p.ExportOptions{Dir: "/stick", Products: []string{"a", "b"}}, func(p p2p.StickProgress) {
			if p.Done == 1 && p.Total == 2 {
				steps++
			}
		})
		if err != nil || out.Path != "/stick/satchel" || len(out.Releases) != 2 || steps == 0 {
			t.Errorf("%+v, %v, %d steps", out, err, steps)
		}
		in, err := c.Import(t.Context(), "/stick", nil)
		if p2p.CodeOf(err) != p2p.CodeCorrupt || p2p.HintOf(err) != "export again" || in.Path != "/stick" || in.ProblemCount != 1 {
			t.Errorf("%+v, %v", in, err)
		}
	})
}
