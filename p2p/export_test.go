package p2p

// Look does at once what a node does every two seconds.
func (n *Node) Look() { n.do(func() { n.rounds(); n.retryLines() }) }
