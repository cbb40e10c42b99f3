package controltest

import (
	"context"

	"satchel/p2p"
)

// Export takes one step for each product asked for.
func (n *Node) Export(ctx context.Context, o p2p.ExportOptions, progress func(p2p.StickProgress)) (p2p.ExportResult, error) {
	res := p2p.ExportResult{Path: o.Dir + "/satchel"}
	for _, name := range o.Products {
		if err := ctx.Err(); err != nil {
			return res, err
		}
		progress(p2p.StickProgress{What: "writing", Done: 1, Total: 2})
		res.Releases = append(res.Releases, p2p.StickRelease{Product: name})
	}
	return res, nil
}

// Import finds a stick that is damaged.
func (n *Node) Import(ctx context.Context, dir string, progress func(p2p.StickProgress)) (p2p.ImportResult, error) {
	progress(p2p.StickProgress{What: p2p.StateFetching})
	return p2p.ImportResult{Path: dir, Problems: []string{"bad"}, ProblemCount: 1}, fail(p2p.CodeCorrupt, "export again", "a part is damaged")
}
