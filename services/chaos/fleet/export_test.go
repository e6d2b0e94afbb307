package fleet

// OnDisks does something where the small disks are seen.
func (f *Fleet) OnDisks(work func() error) error { return f.starter.do(work) }
