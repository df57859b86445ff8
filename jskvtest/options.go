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

// WithOptions lets change set what the package has no word for: a domain, permissions, the
// largest payload. A whole configuration works too:
//
//	jskvtest.WithOptions(func(o *server.Options) {
//		if err := o.ProcessConfigString(text); err != nil {
//			t.Error(err)
//		}
//	})
//
// change is called before every start of every server, with fresh options each time. The
// name, addresses, routes and the directory are the package's own and cannot be changed, nor
// can it be switched off that JetStream is on. Several WithOptions are called in their order.
func WithOptions(change func(*server.Options)) Option {
	return func(c *config) { c.change = append(c.change, change) }
}

// WithAccount names the account in which a cluster's helpers look for buckets: Leader,
// StepDown, WaitCurrent and the like. The default is "$G", in which clients are that give no
// credentials.
func WithAccount(name string) Option {
	return func(c *config) { c.account = name }
}
