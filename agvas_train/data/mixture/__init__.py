"""The paper's mixture of public data sets (Table A.1): which take part, and the sample at each index of the stream."""
