package jskvtest

import "github.com/nats-io/nats-server/v2/server"

// Option changes how NewServer and NewCluster set up their servers.
type Option func(*config)

type config struct {
	change  []func(*server.Options)
	account string
}

func newConfig(opts []Option) config {
	c := config{account: server.DEFAULT_GLOBAL_ACCOUNT}
	for _, opt := range opts {
		opt(&c)
	}
	return c
}

// WithOptions lets change set what the package has no option for: a domain, permissions, the
// largest payload. A whole configuration works too:
//
//	jskvtest.WithOptions(func(o *server.Options) {
//		if err := o.ProcessConfigString(text); err != nil {
//			t.Error(err)
//		}
//	})
//
// change is called before every start of every server, with fresh options each time, which have
// the server's name and address. It cannot change the name, the addresses or the directory, nor
// switch JetStream off. It can change a cluster's Routes, one to each server in the order of their
// indexes, so that they lead through a Proxy. Several WithOptions are called in their order.
func WithOptions(change func(*server.Options)) Option {
	return func(c *config) { c.change = append(c.change, change) }
}

// WithAccount names the account in which a cluster's helpers look for buckets: Leader,
// StepDown, WaitCurrent and the like. The default is "$G", in which clients are that give no
// credentials.
func WithAccount(name string) Option {
	return func(c *config) { c.account = name }
}
