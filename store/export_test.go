package store

// AfterSurvey has f called when Publish has looked at the tree, and not read it yet.
func (o *PublishOptions) AfterSurvey(f func()) { o.surveyed = f }

// Abandon gives up the store as the end of its process does: nothing is written out or removed.
func (s *Store) Abandon() { s.closeFiles() }
