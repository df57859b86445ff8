package jskvtest

// Lossy returns the number of connections that have lost bytes. When those come to the proxy that a client has
// sent is for the machine to say.
func (p *Proxy) Lossy() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for l := range p.links {
		if l.lost != 0 {
			n++
		}
	}
	return n
}
